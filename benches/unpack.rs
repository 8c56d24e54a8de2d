//! The physical limit: only unpacks the gzip files of a folder, with libdeflate, on so many threads, and counts lines.
//! `cargo bench --bench unpack -- FOLDER THREADS` prints seconds, bytes and lines as JSON.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use streamwarden::logs::gunzip::unpack;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let Some(folder) = arguments.next() else {
        return eprintln!("give a folder of gzip files, and a number of threads");
    };
    let threads: usize = arguments.next().map_or(1, |threads| threads.parse().expect("a number of threads"));
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let (files, bytes, lines) = (Mutex::new(files), AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                loop {
                    let next = files.lock().expect("not poisoned").pop();
                    let Some(file) = next else { return };
                    let packed = std::fs::read(file).expect("read a file");
                    let length = unpack(&packed, usize::MAX >> 1, &mut buffer).expect("a gzip file");
                    let text = &buffer[..length];
                    bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
                    lines.fetch_add(memchr::memchr_iter(b'\n', text).count() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"seconds\": {seconds}, \"bytes\": {}, \"lines\": {}}}", bytes.into_inner(), lines.into_inner());
}

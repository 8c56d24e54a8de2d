//! HTTP as the tests need it: a request, somebody who takes messages, somebody who never answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// The status and the body of the answer to a GET.
pub fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A server that takes JSON and keeps it.
pub struct Webhook {
    address: String,
    taken: Arc<Mutex<Vec<Value>>>,
    status: Arc<Mutex<u16>>,
}

impl Webhook {
    pub fn start() -> Webhook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (taken, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(200)));
        let webhook = Webhook { address, taken: taken.clone(), status: status.clone() };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = *status.lock().unwrap();
                if status == 200 {
                    taken.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                }
                write!(stream, "HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
            }
        });
        webhook
    }

    pub fn url(&self) -> String {
        format!("http://{}/secret-path", self.address)
    }

    /// What it answers from now on; only what it answers 200 to is kept.
    pub fn answer(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }

    /// The messages since it was asked last.
    pub fn taken(&self) -> Vec<Value> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}

/// The address of a server that takes connections and never answers.
pub fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    address
}

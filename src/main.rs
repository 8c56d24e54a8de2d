use std::ffi::{c_int, c_long};
use std::process::ExitCode;

/// A fifth of the time went to the system's allocator, which also keeps what was freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Options of mimalloc 3 (`mi_option_t`) and what they are set to, where the environment does not say otherwise.
///
/// `purge_delay`: milliseconds after which memory that was freed goes back to the system. With the allocator's own second a
/// replay of a gigabyte holds a third more, and takes as long. `allow_thp`: whether the system is asked for huge pages, of which a
/// pass that touches a little of many held 210 MB where it holds 150 now.
const OPTIONS: [(c_int, c_long); 2] = [(15, 200), (43, 0)];

unsafe extern "C" {
    fn mi_option_set_default(option: c_int, value: c_long);
}

fn main() -> ExitCode {
    for (option, value) in OPTIONS {
        // SAFETY: mimalloc is linked, as the allocator above. What the environment says of the option stays.
        unsafe { mi_option_set_default(option, value) };
    }
    streamwarden::cli::main()
}

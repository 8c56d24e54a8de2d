use std::process::ExitCode;

/// A fifth of the time went to the system's allocator, which also keeps what was freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    streamwarden::cli::main()
}

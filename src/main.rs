use std::process::ExitCode;

fn main() -> ExitCode {
    streamwarden::cli::main()
}

//! The millstream binary. See `millstream::cli`.

fn main() -> std::process::ExitCode {
    millstream::cli::run()
}

//! The `pycket` program; everything is in the library.

use std::process::ExitCode;

// Most of what an exchange allocates is small and short-lived, and freed by the thread that
// allocated it. musl's allocator takes a lock for each of those; this one does not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pycket::cli::main(std::env::args_os(), std::env::vars_os())
}

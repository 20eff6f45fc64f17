//! The `diskferry` command.
//!
//! Arguments are parsed once ([`args`]), turned into what the engine wants, and run; each verb has a file of its own in
//! [`verbs`], and renders its result for people and as JSON. Exit codes are made in one place ([`failure`]).

mod args;
mod changeable;
mod failure;
mod open;
mod receipt;
mod render;
mod report;
mod source;
mod verbs;
mod watch;
mod work;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = args::Arguments::parse();
    let json = arguments.verb.json();
    open::survive_file_size_limits();
    open::allow_many_files();
    match verbs::run(&arguments.verb) {
        Ok(code) => code,
        Err(failure) => {
            failure.report(json);
            failure.exit_code()
        }
    }
}

//! Completions and the manual page, made from the definitions of the arguments.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Arguments;
use crate::failure::Failure;
use crate::report;

/// Prints the completions for `shell`.
pub fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "diskferry", &mut script);
    report::raw(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the manual page: the command, then each verb.
pub fn man() -> Result<ExitCode, Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    let failed = |e| formats::Error::io("render the manual page", e);
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(failed)?;
    for verb in command.get_subcommands() {
        clap_mangen::Man::new(verb.clone())
            .render(&mut page)
            .map_err(failed)?;
    }
    report::raw(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}

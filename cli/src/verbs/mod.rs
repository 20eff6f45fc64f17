//! One file a verb.

mod check;
mod compare;
mod convert;
mod digest;
mod generate;
mod info;
mod map;
mod measure;
mod picture;
mod resize;

use std::process::ExitCode;

use crate::args::Verb;
use crate::failure::Failure;

/// Does what was asked for.
pub fn run(verb: &Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::Convert(arguments) => convert::run(arguments),
        Verb::Info(arguments) => info::run(arguments),
        Verb::Measure(arguments) => measure::run(arguments),
        Verb::Map(arguments) => map::run(arguments),
        Verb::Check(arguments) => check::run(arguments),
        Verb::Resize(arguments) => resize::run(arguments),
        Verb::Compare(arguments) => compare::run(arguments),
        Verb::Digest(arguments) => digest::run(arguments),
        Verb::Completions { shell } => generate::completions(*shell),
        Verb::Man => generate::man(),
    }
}

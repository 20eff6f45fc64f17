//! What a run of the command takes.

use std::time::Duration;

use super::tool;

/// Runs what it is given, and prints its exit code, the peak of its memory in KiB, and the seconds of processor time that
/// it took.
const METER: &str = "\
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_maxrss, used.ru_utime + used.ru_stime)
";

/// What a finished run took.
#[derive(Debug)]
pub struct Cost {
    /// The most memory that it had at a time, in bytes.
    pub peak: u64,
    /// How long a busy machine let it wait does not count.
    pub processor: Duration,
}

/// Runs diskferry, which must succeed, under Python.
pub fn cost_of(arguments: &[&str]) -> Cost {
    let command = ["-c", METER, env!("CARGO_BIN_EXE_diskferry")];
    let text = tool("python3", &[&command[..], arguments].concat());
    let numbers: Vec<f64> = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let [code, kib, seconds] = numbers[..] else {
        panic!("not three numbers: {text}");
    };
    assert_eq!(code, 0.0, "diskferry {arguments:?}");
    Cost {
        peak: kib as u64 * 1024,
        processor: Duration::from_secs_f64(seconds),
    }
}

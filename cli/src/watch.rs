//! Showing how far a transfer is, from a thread of its own, so that the engine knows nothing of terminals.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle as BarStyle};
use transfer::Progress;

use crate::args::{Output, ProgressStyle};

/// How often JSON lines are written.
const JSON_EVERY: Duration = Duration::from_millis(500);

/// How often a bar is drawn.
const BAR_EVERY: Duration = Duration::from_millis(100);

/// Runs `job` while its progress is shown as `output` says.
pub fn watched<T>(output: &Output, progress: &Progress, job: impl FnOnce() -> T) -> T {
    let style = match output.progress {
        ProgressStyle::Auto if output.bar => ProgressStyle::Bar,
        ProgressStyle::Auto if std::io::stderr().is_terminal() => ProgressStyle::Bar,
        ProgressStyle::Auto => ProgressStyle::None,
        other => other,
    };
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = match style {
            ProgressStyle::Bar => thread()
                .spawn_scoped(scope, || draw(progress, &finished))
                .ok(),
            ProgressStyle::Json => thread()
                .spawn_scoped(scope, || print_lines(progress, &finished))
                .ok(),
            ProgressStyle::Auto | ProgressStyle::None => None,
        };
        let result = job();
        finished.store(true, Ordering::Relaxed);
        if let Some(watcher) = watcher {
            watcher.thread().unpark();
        }
        result
    })
}

/// A thread that may fail to start: then nothing is shown.
fn thread() -> std::thread::Builder {
    std::thread::Builder::new()
}

fn phase(progress: &Progress) -> &'static str {
    if progress.is_verifying() {
        "verify"
    } else {
        "copy"
    }
}

fn draw(progress: &Progress, finished: &AtomicBool) {
    let template = "{msg:6} {bar:30} {percent:>3} %  {bytes} of {total_bytes}  {binary_bytes_per_sec}  {eta} left";
    let style = BarStyle::with_template(template).unwrap_or_else(|_| BarStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    let mut shown = "";
    while !finished.load(Ordering::Relaxed) {
        if shown != phase(progress) {
            shown = phase(progress);
            bar.reset();
            bar.set_message(shown);
        }
        bar.set_length(progress.total());
        bar.set_position(progress.done());
        std::thread::park_timeout(BAR_EVERY);
    }
    bar.finish_and_clear();
}

fn print_lines(progress: &Progress, finished: &AtomicBool) {
    loop {
        let last = finished.load(Ordering::Relaxed);
        let line = serde_json::json!({
            "phase": phase(progress),
            "done": progress.done(),
            "total": progress.total(),
            "read": progress.data(),
        });
        crate::report::line(&line.to_string());
        if last {
            return;
        }
        std::thread::park_timeout(JSON_EVERY);
    }
}

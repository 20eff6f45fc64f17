//! From arguments to an opened image and a running engine.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use formats::options::parse_size;
use formats::{Error, Format, Image, OpenContext, Passphrase, ReferencePolicy};

use crate::args::Opening;
use crate::failure::Failure;

/// Threads when the user does not say: several a core, because most of them wait for
/// storage (direct writes reach its full rate only when enough of them are under way), few enough to keep memory small.
const MOST_THREADS: usize = 16;

/// Longest passphrase that is read, as in cryptsetup.
const PASSPHRASE_MAX: u64 = 8 << 20;

/// What opening images and the files named in them may do.
pub fn context(opening: &Opening, salvage: bool) -> Result<OpenContext, Failure> {
    Ok(OpenContext {
        references: ReferencePolicy::new(&opening.allow_references)?,
        salvage,
        sector_size: opening.sector_size,
        snapshot: opening.snapshot.clone(),
        layer: opening.layer.clone(),
        passphrase: opening.key_file.as_deref().map(passphrase).transpose()?,
        ..OpenContext::default()
    })
}

/// As [`context`], for verbs that do not read plain data: an encrypted image needs no key for them.
pub fn context_for_tables(opening: &Opening) -> Result<OpenContext, Failure> {
    Ok(OpenContext {
        locked: true,
        ..context(opening, false)?
    })
}

/// The passphrase in a file, or in a pipe.
fn passphrase(path: &Path) -> Result<Passphrase, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PASSPHRASE_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read the key file", e).in_file(path))?;
    if bytes.len() as u64 > PASSPHRASE_MAX {
        return Err(
            Error::usage("--key-file", "the file is too long for a passphrase")
                .expected(format!("at most {PASSPHRASE_MAX} bytes"))
                .in_file(path)
                .into(),
        );
    }
    Ok(Passphrase::new(bytes))
}

/// The format that the user named, if any.
pub fn format(name: Option<&str>) -> Result<Option<Format>, Failure> {
    Ok(name.map(formats::format_by_name).transpose()?)
}

/// Opens an image and says on standard error what is odd about it.
pub fn image(
    path: &Path,
    format_name: Option<&str>,
    context: &OpenContext,
) -> Result<Image, Failure> {
    said(formats::open(path, format(format_name)?, context)?)
}

/// The image, after its warnings were printed.
///
/// # Errors
/// `Refused` when a delta is half applied to one of its layers.
pub fn said(image: Image) -> Result<Image, Failure> {
    refuse_half_applied(&image)?;
    Ok(said_half_applied(image))
}

/// Fails when a delta is half applied to one of the layers of `image`.
///
/// # Errors
/// `Refused`.
pub fn refuse_half_applied(image: &Image) -> Result<(), Failure> {
    let mut layers = image.layers.iter();
    layers.try_for_each(|layer| crate::receipt::refuse_half_applied(&layer.path))
}

/// The same, also while a delta is half applied to it.
pub fn said_half_applied(image: Image) -> Image {
    for layer in &image.layers {
        for warning in &layer.info.warnings {
            crate::report::warning(&format!("{}: {warning}", layer.path.display()));
        }
    }
    image
}

/// Refuses a disk that is larger than the user allows.
pub fn check_size(image: &Image, most: Option<&str>) -> Result<(), Failure> {
    let Some(text) = most else {
        return Ok(());
    };
    let most = parse_size(text).ok_or_else(|| {
        Error::usage("--max-size", "not a possible size")
            .found(format!("{text:?}"))
            .expected("a size like 2T")
    })?;
    let size = image.source.size();
    if size <= most {
        return Ok(());
    }
    let path = image.tip().map(|tip| tip.path.clone()).unwrap_or_default();
    Err(Error::limit("disk", "is larger than --max-size allows")
        .found(format!("{size} bytes"))
        .expected(format!("at most {most}"))
        .in_file(&path)
        .into())
}

/// The number of workers.
pub fn threads(wanted: Option<usize>) -> Result<usize, Failure> {
    match wanted {
        Some(0) => Err(Error::usage("-j", "wants at least one thread").into()),
        Some(n) => Ok(n.min(256)),
        None => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Ok((cores * 8).clamp(8, MOST_THREADS))
        }
    }
}

/// Lets a write past a limit on the size of files (`ulimit -f`) fail, rather than end the program without a word.
pub fn survive_file_size_limits() {
    let hit = Arc::new(AtomicBool::new(false));
    // Without it the limit still holds, only less politely.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, hit);
}

/// Lets as many files be open as this user may have: a split disk of terabytes has thousands.
pub fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limits = getrlimit(Resource::Nofile);
    // Without it the usual limit holds, and opening one file too many says so.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limits.maximum,
            maximum: limits.maximum,
        },
    );
}

/// A flag that SIGINT, SIGTERM and SIGHUP set. A second signal ends the program at once: the target has no name yet.
/// Signals that are ignored stay so: `nohup` and background jobs of scripts rely on it.
pub fn cancel_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    listen(&cancel, &cancel)?;
    Ok(cancel)
}

/// For writing to a pipe: there the first signal ends the program at once. Nothing has to be cleaned up, and a write
/// that nobody reads would never come to look at the flag.
pub fn end_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    listen(&Arc::new(AtomicBool::new(true)), &cancel)?;
    Ok(cancel)
}

/// Lets the signals end the program if `at_once` is set by then, and set `cancel`.
fn listen(at_once: &Arc<AtomicBool>, cancel: &Arc<AtomicBool>) -> Result<(), Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let ignored = ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        signal_hook::flag::register_conditional_shutdown(signal, 130, at_once.clone())
            .and_then(|_| signal_hook::flag::register(signal, cancel.clone()))
            .map_err(|e| Error::io("listen for signals", e))?;
    }
    Ok(())
}

/// The signals that this process was told to ignore: bit 0 is signal 1 (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

//! qcow2 images encrypted with LUKS, made by qemu-img: read right with their passphrase, refused without it or with
//! another one.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use common::{Folder, diskferry, have, noise, run, run_ok, s, sha256sum, tool};

/// An encrypted image with its passphrase and what it must read as.
struct Encrypted {
    folder: Folder,
    key: PathBuf,
    disk: PathBuf,
    image: PathBuf,
}

const SIZE: &str = "1000448";

impl Encrypted {
    /// An image made with these options, "encrypt." left out, that holds noise and zeros.
    fn new(options: &str) -> Encrypted {
        let folder = Folder::new();
        let (key, disk, image) = (
            folder.file("key"),
            folder.file("disk.raw"),
            folder.file("image.qcow2"),
        );
        fs::write(&key, "geheim").unwrap();
        let mut content = noise(1, 300_000);
        content.resize(700_000, 0);
        content.extend(noise(2, 1_000_448 - 700_000));
        fs::write(&disk, content).unwrap();
        let made = Encrypted {
            folder,
            key,
            disk,
            image,
        };
        made.create(&made.image, options);
        made.fill(&made.image);
        made
    }

    /// An image as QEMU makes it without further options. It is made once: that takes seconds.
    fn usual() -> Encrypted {
        static USUAL: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
            let made = Encrypted::new("");
            [&made.key, &made.disk, &made.image].map(|file| fs::read(file).unwrap())
        });
        let folder = Folder::new();
        let [key, disk, image] = ["key", "disk.raw", "image.qcow2"].map(|name| folder.file(name));
        for (file, content) in [&key, &disk, &image].into_iter().zip(&*USUAL) {
            fs::write(file, content).unwrap();
        }
        Encrypted {
            folder,
            key,
            disk,
            image,
        }
    }

    fn secret(&self) -> String {
        format!("secret,id=s,file={}", s(&self.key))
    }

    /// What qemu-img and qemu-io take for an encrypted image.
    fn opened(image: &Path) -> String {
        format!(
            "driver=qcow2,file.filename={},encrypt.key-secret=s",
            s(image)
        )
    }

    /// Makes an empty image; options that start with "+" are not about the encryption.
    fn create(&self, image: &Path, options: &str) {
        let mut all = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10".to_owned();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            all += &match option.strip_prefix('+') {
                Some(option) => format!(",{option}"),
                None => format!(",encrypt.{option}"),
            };
        }
        let secret = self.secret();
        tool(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "--object",
                &secret,
                "-o",
                &all,
                "-u",
                s(image),
                SIZE,
            ],
        );
    }

    /// Writes the disk into an image.
    fn fill(&self, image: &Path) {
        let (secret, target) = (self.secret(), Encrypted::opened(image));
        tool(
            "qemu-img",
            &[
                "convert",
                "-n",
                "--object",
                &secret,
                "--target-image-opts",
                "-f",
                "raw",
                s(&self.disk),
                &target,
            ],
        );
    }

    /// Does something to the image with qemu-io.
    fn io(&self, opened: &str, command: &str) {
        let secret = self.secret();
        tool(
            "qemu-io",
            &["--object", &secret, "--image-opts", opened, "-c", command],
        );
    }

    /// What qemu-img reads.
    fn as_qemu_reads(&self, opened: &str) -> String {
        let (secret, copy) = (self.secret(), self.folder.file("copy.raw"));
        tool(
            "qemu-img",
            &[
                "convert",
                "--object",
                &secret,
                "--image-opts",
                "-O",
                "raw",
                opened,
                s(&copy),
            ],
        );
        sha256sum(&copy)
    }

    /// What diskferry reads.
    fn digest_of(&self, image: &Path) -> String {
        let key = ["--key-file", s(&self.key)];
        common::guest_digest(image, &key).0
    }

    fn assert_read_right(&self, what: &str) {
        assert_eq!(self.digest_of(&self.image), sha256sum(&self.disk), "{what}");
    }
}

/// Reads an image of each kind. Making one takes QEMU seconds, so that each combines a cipher and its mode with another
/// hash and another kind of qcow2: any pair that goes wrong shows.
fn read_all(combinations: &[[&str; 3]]) {
    if !have("qemu-img") {
        return;
    }
    for [cipher, hash, qcow2] in combinations {
        let options = format!("cipher-alg={cipher},hash-alg={hash},{qcow2}");
        Encrypted::new(&options).assert_read_right(&options);
    }
}

#[test]
fn every_cipher_and_hash_reads_right() {
    read_all(&[
        ["aes-128", "sha1", "+cluster_size=512"],
        ["aes-192", "sha224", "+compat=0.10"],
        ["aes-256", "sha256", "+extended_l2=on"],
        ["serpent-128", "sha384", "+compression_type=zstd"],
        ["serpent-192", "sha512", "+refcount_bits=1"],
        ["serpent-256", "ripemd160", "+cluster_size=2M"],
        ["twofish-128", "sha256", "+cluster_size=4k"],
        ["twofish-192", "sha512", "+cluster_size=512"],
        ["twofish-256", "sha1", ""],
    ]);
}

#[test]
fn every_mode_reads_right() {
    let modes = [
        "aes-128,cipher-mode=cbc,ivgen-alg=plain",
        "aes-256,cipher-mode=cbc,ivgen-alg=plain64",
        "aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        "aes-256,cipher-mode=xts,ivgen-alg=plain",
        "aes-256,cipher-mode=xts,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        "aes-256,cipher-mode=ecb",
        "serpent-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
        "twofish-256,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256",
    ];
    read_all(&modes.map(|mode| [mode, "sha256", ""]));
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    if !have("qemu-img") {
        return;
    }
    let made = Encrypted::new("cipher-mode=ctr");
    let failed = run(&["digest", s(&made.image), "--key-file", s(&made.key)]);
    assert_eq!(failed.code, Some(3));
    assert!(failed.stderr.contains("ctr-plain64"), "{}", failed.stderr);
    // What it says of itself can be seen all the same.
    run_ok(&["info", s(&made.image)]);
}

#[test]
fn without_key_or_with_a_wrong_one_nothing_is_written() {
    if !have("qemu-img") {
        return;
    }
    let made = Encrypted::usual();
    let wrong = made.folder.file("wrong");
    fs::write(&wrong, "geheimer").unwrap();
    let before = made.folder.names();
    let target = made.folder.file("target.raw");
    let convert = |options: &[&str]| {
        let mut arguments = vec!["convert", s(&made.image), s(&target), "--json"];
        arguments.extend(options);
        let failed = run(&arguments);
        assert_eq!(made.folder.names(), before);
        assert!(!failed.text().contains("geheim") && !failed.stderr.contains("geheim"));
        (failed.code, failed.error_kind())
    };
    let key = ["--key-file", s(&wrong)];
    assert_eq!(convert(&[]), (Some(3), "unsupported".into()));
    assert_eq!(convert(&["--salvage"]), (Some(3), "unsupported".into()));
    assert_eq!(convert(&key), (Some(5), "refused".into()));
    for verb in ["digest", "info", "map", "check"] {
        assert_eq!(run(&[verb, s(&made.image), key[0], key[1]]).code, Some(5));
    }
    let absent = made.folder.file("absent");
    let failed = run(&["digest", s(&made.image), "--key-file", s(&absent)]);
    assert_eq!(failed.code, Some(4));
    let hint = run(&["digest", s(&made.image)]).stderr;
    assert!(
        hint.contains("LUKS") && hint.contains("--key-file"),
        "{hint}"
    );
}

#[test]
fn a_line_feed_at_the_end_of_the_key_file_counts_if_it_fits() {
    if !have("qemu-img") {
        return;
    }
    let with = |bytes: &str, made: &Encrypted| {
        let key = made.folder.file("other");
        fs::write(&key, bytes).unwrap();
        run(&["digest", s(&made.image), "--key-file", s(&key)]).code
    };
    let mut made = Encrypted::usual();
    assert_eq!(with("geheim\n", &made), Some(0));
    assert_eq!(with("geheim\n\n", &made), Some(5));
    made.key = made.folder.file("with-line-feed");
    fs::write(&made.key, "geheim\n").unwrap();
    made.image = made.folder.file("second.qcow2");
    made.create(&made.image, "");
    made.fill(&made.image);
    made.assert_read_right("line feed");
    // As qemu-img has it: without its line feed this is another passphrase.
    assert_eq!(with("geheim", &made), Some(5));
}

#[test]
fn the_key_comes_through_a_pipe() {
    if !have("qemu-img") {
        return;
    }
    let made = Encrypted::usual();
    let output = diskferry()
        .args(["digest", s(&made.image), "--key-file", "/dev/stdin"])
        .stdin(fs::File::open(&made.key).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn compressed_and_zero_clusters_read_as_qemu_reads_them() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let made = Encrypted::usual();
    let opened = Encrypted::opened(&made.image);
    made.io(&opened, "write -z 65536 65536");
    made.io(&opened, "write -c -P 51 393216 65536");
    made.io(&opened, "discard 0 65536");
    assert_eq!(made.digest_of(&made.image), made.as_qemu_reads(&opened));
    assert_ne!(made.digest_of(&made.image), sha256sum(&made.disk));
}

#[test]
fn an_external_data_file_is_decrypted_with_its_own_offsets() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let data = format!("+data_file={}", s(&folder.file("data")));
    let made = Encrypted::new(&data);
    let allowed = [
        "--allow-references",
        s(folder.path()),
        "--key-file",
        s(&made.key),
    ];
    let (digest, _) = common::guest_digest(&made.image, &allowed);
    assert_eq!(digest, sha256sum(&made.disk));
}

#[test]
fn chains_are_read_with_the_key_of_all_their_layers() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let made = Encrypted::usual();
    // Encrypted over encrypted.
    let tip = made.folder.file("tip.qcow2");
    made.create(&tip, "+backing_file=image.qcow2,+backing_fmt=qcow2");
    assert_eq!(made.digest_of(&tip), sha256sum(&made.disk));
    let opened = format!(
        "{},backing.driver=qcow2,backing.file.filename={},backing.encrypt.key-secret=s",
        Encrypted::opened(&tip),
        s(&made.image)
    );
    made.io(&opened, "write -P 7 200000 5000");
    assert_eq!(made.digest_of(&tip), made.as_qemu_reads(&opened));
    assert_ne!(made.digest_of(&tip), sha256sum(&made.disk));
    let failed = run(&["digest", s(&tip)]);
    assert_eq!(failed.code, Some(3));
    // Encrypted over plain, and plain over encrypted.
    let over_raw = made.folder.file("over-raw.qcow2");
    made.create(&over_raw, "+backing_file=disk.raw,+backing_fmt=raw");
    assert_eq!(made.digest_of(&over_raw), sha256sum(&made.disk));
    let plain = made.folder.file("plain.qcow2");
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            "image.qcow2",
            "-F",
            "qcow2",
            s(&plain),
            SIZE,
        ],
    );
    assert_eq!(made.digest_of(&plain), sha256sum(&made.disk));
    let info = run_ok(&["info", s(&plain), "--json"]).json();
    assert_eq!(info["warnings"].as_array().unwrap().len(), 0, "{info}");
}

#[test]
fn an_encrypted_image_becomes_a_plain_one() {
    if !have("qemu-img") {
        return;
    }
    let made = Encrypted::usual();
    let key = ["--key-file", s(&made.key)];
    for (name, options) in [
        ("target.raw", &[][..]),
        ("target.qcow2", &["-c"]),
        ("target.vhd", &["-o", "subformat=fixed"]),
    ] {
        let target = made.folder.file(name);
        let options = [&key[..], &["--verify"], options].concat();
        common::convert(&made.image, &target, &options);
        let compared = run(&["compare", s(&made.image), s(&target), key[0], key[1]]);
        assert_eq!(compared.code, Some(0), "{name}: {}", compared.stderr);
        run_ok(&["compare", s(&made.disk), s(&target)]);
    }
    assert!(fs::read(made.folder.file("target.raw")).unwrap() == fs::read(&made.disk).unwrap());
}

#[test]
fn info_map_and_check_need_no_key() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let made = Encrypted::new("cipher-alg=serpent-256,hash-alg=sha512");
    made.io(
        &Encrypted::opened(&made.image),
        "write -c -P 51 393216 65536",
    );
    let details = run_ok(&["info", s(&made.image), "--json"]).json()["details"].clone();
    assert_eq!(details["encryption"], "luks");
    assert_eq!(details["cipher"], "serpent");
    assert_eq!(details["cipher_mode"], "xts-plain64");
    assert_eq!(details["key_bits"], 512);
    assert_eq!(details["hash"], "sha512");
    assert_eq!(details["key_slots_used"], 1);
    let map = run_ok(&["map", s(&made.image), "--json"]).json();
    let runs = map["runs"].as_array().unwrap();
    for run in runs {
        let encrypted = (run["type"] == "data").then_some(true);
        assert_eq!(run["encrypted"].as_bool(), encrypted, "{run}");
    }
    assert!(runs.iter().any(|run| run["type"] == "compressed"));
    for key in [&[][..], &["--key-file", s(&made.key)]] {
        run_ok(&[&["check", s(&made.image)], key].concat());
    }
}

#[test]
fn the_old_aes_encryption_is_refused_by_name_with_a_key_too() {
    if !have("qemu-img") {
        return;
    }
    let folder = Folder::new();
    let (key, image) = (folder.file("key"), folder.file("old.qcow2"));
    fs::write(&key, "geheim").unwrap();
    let secret = format!("secret,id=s,file={}", s(&key));
    let options = "encrypt.format=aes,encrypt.key-secret=s";
    tool(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            &secret,
            "-o",
            options,
            s(&image),
            "1M",
        ],
    );
    let failed = run(&["digest", s(&image), "--key-file", s(&key)]);
    assert_eq!(failed.code, Some(3));
    assert!(failed.stderr.contains("AES"), "{}", failed.stderr);
}

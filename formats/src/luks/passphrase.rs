//! What opens an encrypted image.

use std::fmt;

use zeroize::Zeroizing;

/// PBKDF2 iterations that one passphrase is worth at most, over all key slots of an image.
///
/// An image says itself how often the passphrase is hashed, and a hostile one says 2^32. A slot made by QEMU or cryptsetup
/// takes 2 s of the machine that made it: on a fast one some 16 million iterations of SHA-256. This is 64 times as many: the
/// slowest hash takes some ten minutes for it.
const PATIENCE: u64 = 1 << 30;

/// A passphrase: any bytes. It is wiped from memory when it is dropped, and does not show in debug output.
#[derive(Clone)]
pub struct Passphrase {
    bytes: Zeroizing<Vec<u8>>,
    patience: u64,
}

impl Passphrase {
    /// The passphrase `bytes`. If it ends with a line feed and does not fit, it is tried without.
    pub fn new(bytes: Vec<u8>) -> Passphrase {
        Passphrase {
            bytes: Zeroizing::new(bytes),
            patience: PATIENCE,
        }
    }

    /// The same, for images that ask for at most this many PBKDF2 iterations over all their key slots.
    pub fn with_patience(self, iterations: u64) -> Passphrase {
        Passphrase {
            patience: iterations,
            ..self
        }
    }

    /// Iterations that it is worth.
    pub(crate) fn patience(&self) -> u64 {
        self.patience
    }

    /// What to try, in this order: as it is, and without the line feed at its end that editors and `echo` leave.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        [Some(self.bytes.as_slice()), self.bytes.strip_suffix(b"\n")]
            .into_iter()
            .flatten()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_not_show() {
        let shown = format!("{:?}", Passphrase::new(b"geheim".to_vec()));
        assert!(
            !shown.contains("geheim") && !shown.contains("103"),
            "{shown}"
        );
    }

    #[test]
    fn a_line_feed_at_the_end_may_belong_to_it_or_not() {
        let tried = |bytes: &[u8]| -> Vec<Vec<u8>> {
            let passphrase = Passphrase::new(bytes.to_vec());
            passphrase.candidates().map(<[u8]>::to_vec).collect()
        };
        assert_eq!(tried(b"a"), [b"a"]);
        assert_eq!(tried(b"a\n"), [b"a\n".to_vec(), b"a".to_vec()]);
        assert_eq!(tried(b"a\n\n"), [b"a\n\n".to_vec(), b"a\n".to_vec()]);
        assert_eq!(tried(b""), [b""]);
    }
}

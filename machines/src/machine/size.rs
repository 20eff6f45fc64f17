//! Sizes in TOML and JSON: written as a number of bytes, read as one or as `"4G"`.

pub(super) mod option {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(size: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match size {
            Some(bytes) => serializer.serialize_some(bytes),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u64>, D::Error> {
        deserializer.deserialize_any(Size)
    }

    struct Size;

    impl Visitor<'_> for Size {
        type Value = Option<u64>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a size: bytes, or a text like \"4G\"")
        }

        fn visit_u64<E: Error>(self, bytes: u64) -> Result<Option<u64>, E> {
            Ok(Some(bytes))
        }

        fn visit_i64<E: Error>(self, bytes: i64) -> Result<Option<u64>, E> {
            let bytes = u64::try_from(bytes).map_err(|_| E::custom("a size is not negative"))?;
            Ok(Some(bytes))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Option<u64>, E> {
            formats::options::parse_size(text).map(Some).ok_or_else(|| {
                E::custom(format!("{text:?} is no size; sizes are written 4G, 512M"))
            })
        }

        fn visit_unit<E: Error>(self) -> Result<Option<u64>, E> {
            Ok(None)
        }
    }
}

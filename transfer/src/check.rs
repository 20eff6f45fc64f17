//! Looking through an image for damage, without reading what carries no mark of being whole.

use std::sync::Arc;

use formats::{BlockSource, Mapping, Result as FormatResult, Run};

use crate::error::Result;
use crate::pass::{self, Setting, Wanted};
use crate::salvage::{Losses, Salvage};

/// Asks `source` for its whole map and unpacks what is compressed; what is plain is not read.
///
/// # Errors
/// `Interrupted`. Damage is no error, it is the answer.
pub fn check(source: &Arc<dyn BlockSource>, setting: &Setting<'_>) -> Result<Losses> {
    let salvage = Salvage::default();
    let setting = Setting {
        salvage: Some(&salvage),
        ..*setting
    };
    let packed = PackedOnly(source.clone());
    pass::run(&packed, &Wanted::default(), None, &setting)?;
    Ok(salvage.losses())
}

/// A disk of which only compressed units are read.
struct PackedOnly(Arc<dyn BlockSource>);

impl BlockSource for PackedOnly {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }

    fn block_size(&self) -> u64 {
        self.0.block_size()
    }

    fn map(&self, offset: u64, limit: u64) -> FormatResult<Run> {
        let mut run = self.0.map(offset, limit)?;
        if let Mapping::Stored { .. } = run.mapping {
            run.mapping = Mapping::Zero;
        }
        Ok(run)
    }
}

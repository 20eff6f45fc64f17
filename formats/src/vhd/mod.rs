//! Placeholder until the format is written.
use crate::driver::*;
use crate::error::*;
use crate::options::*;
use crate::storage::*;
use crate::target::*;
/// Driver.
pub struct VhdDriver;
impl Driver for VhdDriver {
    fn format(&self) -> Format {
        Format::Vhd
    }
    fn extensions(&self) -> &'static [&'static str] {
        &["vhd"]
    }
    fn recognises(&self, _h: &Head) -> bool {
        false
    }
    fn open(&self, _s: StorageRef, _c: &OpenContext) -> Result<Layer> {
        todo!()
    }
    fn options(&self) -> &'static [OptionSpec] {
        &[]
    }
    fn target(&self, _size: u64, _o: &Options) -> Result<Box<dyn BlockTarget>> {
        todo!()
    }
}

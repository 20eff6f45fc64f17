//! Placeholder until the format is written.
use crate::driver::*;
use crate::error::*;
use crate::options::*;
use crate::storage::*;
use crate::target::*;
/// Driver.
pub struct Qcow2Driver;
impl Driver for Qcow2Driver {
    fn format(&self) -> Format {
        Format::Qcow2
    }
    fn extensions(&self) -> &'static [&'static str] {
        &["qcow2"]
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

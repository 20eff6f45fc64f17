//! What the tests of the engine share.

pub mod layers;

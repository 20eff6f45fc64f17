//! Packed storages that are open together: only those that were read last hold pages.

use std::sync::{Arc, Mutex, Weak};

use super::State;

/// Storages that hold pages: a disk and the one it stands on, or two that are compared.
const AWAKE: usize = 2;

/// Storages that share the room for their pages. The others keep what they need to begin again.
#[derive(Default, Clone)]
pub struct Pool(Arc<Mutex<Vec<Weak<Mutex<State>>>>>);

impl Pool {
    /// Puts the storage with this state in front; whoever was read longest ago forgets its pages.
    pub(super) fn wake(&self, state: &Arc<Mutex<State>>) {
        let mut awake = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let own = Arc::as_ptr(state);
        if awake.last().is_some_and(|last| last.as_ptr() == own) {
            return;
        }
        awake.retain(|one| one.as_ptr() != own && one.strong_count() > 0);
        awake.push(Arc::downgrade(state));
        let resting = awake.len().saturating_sub(AWAKE);
        for one in awake.drain(..resting) {
            if let Some(state) = one.upgrade() {
                state.lock().unwrap_or_else(|e| e.into_inner()).rest();
            }
        }
    }
}

//! Takes over the settings of a reload.

use std::sync::Arc;

use super::deadlines::Armed;
use super::{Connections, Core, Settings};
use crate::base::clock::Now;
use crate::store::Store;

impl<S: Store<Connections>> Core<S> {
    /// Continues with other settings. They may differ from the present ones only in what a reload applies
    /// ([`Applies::OnReload`](crate::base::setting::Applies)).
    ///
    /// Open connections stay, also beyond a lower limit. Their times of silence begin anew: a peer that was
    /// silent for longer than a new, shorter `idle_timeout` was never pinged, and must not be given up. An
    /// incomplete pb keeps the deadline that it began with.
    pub fn handle_reload(&mut self, now: Now, settings: Arc<Settings>) {
        self.catalogue.set_max(settings.max_queues);
        self.settings = settings;
        // A shorter timeout is due before the deadlines that are armed.
        self.deadlines.clear();
        for id in self.connections.ids().collect::<Vec<_>>() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.excuse(now);
                connection.armed = Armed::default();
            }
            self.after(now, id);
        }
    }
}

//! The thread that answers questions.

use std::io;
use std::sync::Arc;

use super::question::{Audience, Question};
use super::settings::Settings;

/// Decides who clients are, on its own thread. Clones share it.
#[derive(Clone, Debug)]
pub struct Judge {}

impl Judge {
    /// Starts the threads. The files of the providers must work.
    pub fn start(_settings: &Settings, _audience: Arc<dyn Audience>) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Asks a question. Returns it if too many wait.
    pub fn ask(&self, question: Question) -> Result<(), Question> {
        Err(question)
    }
}

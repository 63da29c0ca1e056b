//! A payment provider of the model: intents, and news of them that arrive late, twice, in any order, or not yet.

use sale::payment::{Answer, News};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Open,
    Processing,
    Succeeded,
    Cancelled,
    TakenBack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) entry: usize,
    pub(crate) amount_right: bool,
    pub(crate) status: Status,
}

/// Each model has its own; they must stay equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Provider {
    pub(crate) up: bool,
    pub(crate) intents: Vec<Intent>,
    /// On their way.
    pub(crate) news: Vec<(usize, News)>,
}

impl Provider {
    pub(crate) fn new() -> Provider {
        Provider { up: true, intents: Vec::new(), news: Vec::new() }
    }
    pub(crate) fn create(&mut self, entry: usize, amount_right: bool) -> usize {
        self.intents.push(Intent { entry, amount_right, status: Status::Open });
        self.intents.len() - 1
    }
    /// The buyer pays; a bank may deliver the money of a cancelled intent too.
    pub(crate) fn pay(&mut self, intent: usize) {
        if matches!(self.intents[intent].status, Status::Open | Status::Processing | Status::Cancelled) {
            self.intents[intent].status = Status::Succeeded;
            self.news.push((intent, News::Succeeded));
        }
    }
    pub(crate) fn decline(&mut self, intent: usize) {
        if self.intents[intent].status == Status::Open {
            self.news.push((intent, News::Failed));
        }
    }
    pub(crate) fn process(&mut self, intent: usize) {
        if self.intents[intent].status == Status::Open {
            self.intents[intent].status = Status::Processing;
            self.news.push((intent, News::Processing));
        }
    }
    /// Refunded by us or by hand, or disputed.
    pub(crate) fn take_back(&mut self, intent: usize) {
        if self.intents[intent].status == Status::Succeeded {
            self.intents[intent].status = Status::TakenBack;
            self.news.push((intent, News::TakenBack));
        }
    }
    pub(crate) fn ask(&self, intent: usize) -> Answer {
        match self.intents[intent].status {
            _ if !self.up => Answer::Unreachable,
            Status::Open => Answer::Open,
            Status::Processing => Answer::Processing,
            // A payment that was taken back stays a success in the provider's books.
            Status::Succeeded | Status::TakenBack => Answer::Succeeded,
            Status::Cancelled => Answer::Cancelled,
        }
    }
    pub(crate) fn cancel(&mut self, intent: usize) -> Answer {
        match self.ask(intent) {
            Answer::Open => {
                self.intents[intent].status = Status::Cancelled;
                self.news.push((intent, News::Cancelled));
                Answer::Cancelled
            }
            Answer::Processing => Answer::CannotCancel,
            other => other,
        }
    }
}

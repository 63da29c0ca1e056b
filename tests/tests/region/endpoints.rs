//! Every endpoint of the contract's first two sections: what it takes, and who may call it.

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Anybody,
    Session,
    Door,
    Operator,
}

/// What it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// A JSON object of the contract.
    Json,
    /// The same, of an operator: may be longer.
    Definition,
    /// An event of the payment provider.
    Webhook,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoint {
    pub(crate) method: &'static str,
    /// `{id}` and `{ticket}` stand for what a test puts there.
    pub(crate) path: &'static str,
    pub(crate) who: Who,
    pub(crate) takes: Takes,
}

const fn of(method: &'static str, path: &'static str, who: Who, takes: Takes) -> Endpoint {
    Endpoint { method, path, who, takes }
}

/// Section 1.
pub(crate) const PUBLIC: &[Endpoint] = &[
    of("POST", "/v1/session", Who::Anybody, Takes::Json),
    of("GET", "/v1/challenge", Who::Anybody, Takes::Nothing),
    of("GET", "/v1/concerts", Who::Anybody, Takes::Nothing),
    of("GET", "/v1/concerts/demo", Who::Anybody, Takes::Nothing),
    of("POST", "/v1/concerts/demo/reservations", Who::Session, Takes::Json),
    of("GET", "/v1/reservations/{id}", Who::Session, Takes::Nothing),
    of("GET", "/v1/reservations/{id}/events", Who::Session, Takes::Nothing),
    of("DELETE", "/v1/reservations/{id}", Who::Session, Takes::Nothing),
    of("POST", "/v1/reservations/{id}/reclaim", Who::Session, Takes::Nothing),
    of("POST", "/v1/reservations/{id}/payment", Who::Session, Takes::Nothing),
    of("POST", "/v1/webhooks/stripe", Who::Anybody, Takes::Webhook),
    of("GET", "/v1/tickets/{ticket}", Who::Session, Takes::Nothing),
    of("GET", "/v1/tickets/{ticket}.svg", Who::Session, Takes::Nothing),
    of("POST", "/v1/tickets/check", Who::Door, Takes::Json),
    of("GET", "/openapi.json", Who::Anybody, Takes::Nothing),
    of("GET", "/docs", Who::Anybody, Takes::Nothing),
    of("GET", "/healthz", Who::Anybody, Takes::Nothing),
    of("GET", "/readyz", Who::Anybody, Takes::Nothing),
];

/// Section 2, and a standalone region's own.
pub(crate) const ADMIN: &[Endpoint] = &[
    of("GET", "/metrics", Who::Operator, Takes::Nothing),
    of("GET", "/healthz", Who::Operator, Takes::Nothing),
    of("GET", "/readyz", Who::Operator, Takes::Nothing),
    of("GET", "/v1/status", Who::Operator, Takes::Nothing),
    of("GET", "/v1/ledger?concert=demo", Who::Operator, Takes::Nothing),
    of("POST", "/v1/drain", Who::Operator, Takes::Nothing),
    of("POST", "/v1/resume", Who::Operator, Takes::Nothing),
    of("GET", "/v1/concerts", Who::Operator, Takes::Nothing),
    of("PUT", "/v1/concerts/demo", Who::Operator, Takes::Definition),
    of("POST", "/v1/concerts/demo/close", Who::Operator, Takes::Nothing),
    of("POST", "/v1/concerts/demo/accept-books", Who::Operator, Takes::Json),
];

impl Endpoint {
    /// Its path about that reservation or ticket.
    pub(crate) fn about(&self, id: &str) -> String {
        self.path.replace("{id}", id).replace("{ticket}", id)
    }
}

//! Portreeve: a reconciling operator over plain Docker hosts.
//!
//! ```text
//! kubectl · cli ──▶ api (admit) ──▶ store ──watch──▶ cache ──key──▶ runtime ──▶ controllers
//!                                     ▲                          observe ▶ plan ▶ apply ──▶ docker
//!                                     └──────────── status ◀──────────────────────────────────┘
//! user traffic ──▶ proxy  (reads the cache; its only outputs are `Waker::wake(key)` and activity)
//! ```
//!
//! Desired state comes in at one side, effects leave at the other, and what is seen returns as status by the same
//! store. Nothing else calls back. The rooms, and what each may use (kept by `tests/it/arrows.rs`):
//!
//! | room | what it is | may use |
//! |---|---|---|
//! | [`model`] | pure types, parsing, validation | nothing of ours |
//! | [`pki`] | certificates: made, and read | nothing of ours |
//! | [`store`] | the revisioned log behind everything | model |
//! | [`cache`] | typed, indexed view of the store: one writer, many readers | store, model |
//! | [`runtime`] | queue, back-off, one reconcile per key; knows no kinds | nothing of ours |
//! | [`scheduler`] | which host an instance goes to, and why: pure | model |
//! | [`docker`] | one client per daemon | model, pki |
//! | [`controllers`] | observe, plan, apply | model, scheduler, store, cache, runtime, docker, pki |
//! | [`proxy`] | user traffic | model, cache, pki |
//! | [`acme`] | certificates for the hosts of routes, ordered and renewed | model, cache, runtime, pki, proxy |
//! | [`api`] | the Kubernetes-convention API | model, store, cache, pki |
//! | [`cli`] | the verbs; speaks only the API | model, pki |
//! | [`serve`] | wiring, start-up order, shutdown | every room |

pub mod acme;
pub mod api;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod controllers;
pub mod docker;
pub mod model;
pub mod pki;
pub mod proxy;
pub mod runtime;
pub mod scheduler;
pub mod serve;
mod stall;
pub mod store;
pub mod telemetry;

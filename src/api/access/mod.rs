//! The API's door: who asks, and whether they may.
//!
//! ```text
//! data dir ──▶ credentials, pki ──▶ serving (the certificate, replaced live) ──▶ server (TLS)
//! request ──▶ authenticate (who; tokens) ──▶ limits (how much) ──▶ authorize (may they) ──▶ handler ──▶ policy (what of it)
//!                                                                       └──▶ review (asked by clients)
//! answer ──▶ session (how long it may go on), audit (what was done)
//! ```
//!
//! Called by the handler and the server; the verbs know only their [`User`] and their [`Session`].

pub mod audit;
pub mod authenticate;
pub mod authorize;
pub mod credentials;
pub mod last_use;
pub mod limits;
pub mod policy;
pub mod review;
pub mod serving;
pub mod session;
pub mod tokens;

pub use audit::AuditLog;
pub use authenticate::{Authenticator, PeerAddress, PeerIdentity, User};
pub use authorize::{Attributes, authorize, authorize_path};
pub use credentials::{CredentialError, Credentials};
pub use limits::Limits;
pub use serving::{OwnCertificate, Serving};
pub use session::Session;

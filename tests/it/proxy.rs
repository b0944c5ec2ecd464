//! The reverse proxy from outside: real sockets on loopback, the real cache over the memory store, and a waker that
//! does what the controllers do, after a while.

mod access;
mod beyond;
mod broken_uploads;
mod closed;
mod downgrade;
mod early;
mod ends;
mod forward;
mod forward_auth;
mod front;
mod h2;
mod h2_frames;
mod hold;
mod hostile_app;
mod jwt;
mod recorder;
mod smuggled_heads;
mod smuggling;
mod stalls;
mod stop;
mod upgrade;
mod waiting;
mod websocket;
mod world;

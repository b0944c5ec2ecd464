//! The reverse proxy from outside: real sockets on loopback, the real cache over the memory store, and a waker that
//! does what the controllers do, after a while.

mod ends;
mod forward;
mod front;
mod hold;
mod stop;
mod upgrade;
mod waiting;
mod world;

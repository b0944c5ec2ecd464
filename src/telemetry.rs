//! Logs: `tracing` to stderr, for people on a terminal and as JSON where `PORTREEVE_LOG_FORMAT=json` asks for it.

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` filters; the default tells what an operator needs. Call once.
///
/// Records of the `log` crate are not taken in: the Docker client writes whole requests there, and so values of Secrets.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sled=warn,hyper=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("PORTREEVE_LOG_FORMAT").is_ok_and(|f| f == "json") {
        builder.json().init();
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(ansi).init();
    }
}

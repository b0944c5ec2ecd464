//! The test images, made without a registry: docker archives of one static program.
//!
//! The archive is the same, byte for byte, for the same program: fixed times, owners and order. So the image has the
//! same id on every daemon that loads it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::args::Args;
use crate::build;

/// One tag of the test image.
pub struct Flavour {
    pub reference: &'static str,
    pub env: &'static [&'static str],
}

/// What the demo needs.
pub const APP: Flavour = Flavour { reference: "portreeve/app:1", env: &["APP_VERSION=1"] };

/// What the tests need: a first version, a next one, and one that exits at once.
pub const FLAVOURS: [Flavour; 3] = [
    APP,
    Flavour { reference: "portreeve/app:2", env: &["APP_VERSION=2"] },
    Flavour { reference: "portreeve/app:broken", env: &["APP_VERSION=broken", "EXIT_AFTER_MS=0", "EXIT_CODE=7"] },
];

/// `cargo xtask image [--out DIR]`
pub fn run(mut args: Args) -> Result<ExitCode> {
    let out = args.option("--out")?.unwrap_or_else(|| ".".into());
    args.finish()?;
    let program = build::app()?;
    for flavour in &FLAVOURS {
        let path = Path::new(&out).join(format!("{}.tar", flavour.reference.replace(['/', ':'], "-")));
        fs::write(&path, archive(&program, flavour)?).with_context(|| format!("writing {}", path.display()))?;
        println!("{}  {}", flavour.reference, path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// A docker archive (`docker load` reads it) with the program as `/app`.
pub fn archive(program: &[u8], flavour: &Flavour) -> Result<Vec<u8>> {
    let mut layer = Tar::default();
    layer.directory("data/")?;
    // programs expect it, and an empty image has none
    layer.directory("tmp/")?;
    layer.file("app", program, 0o755)?;
    // what `kubectl cp` runs inside: the program knows them by name
    layer.directory("bin/")?;
    for name in ["bin/tar", "bin/test"] {
        layer.link(name, "/app")?;
    }
    let layer = layer.finish();

    let config = config(&layer, flavour).to_string().into_bytes();
    let config_name = format!("{}.json", hex(&config));
    let layer_name = format!("{}/layer.tar", hex(&layer));
    let manifest = json!([{ "Config": config_name, "RepoTags": [flavour.reference], "Layers": [layer_name] }]);

    let mut image = Tar::default();
    image.file(&config_name, &config, 0o644)?;
    image.directory(layer_name.trim_end_matches("layer.tar"))?;
    image.file(&layer_name, &layer, 0o644)?;
    image.file("manifest.json", manifest.to_string().as_bytes(), 0o644)?;
    Ok(image.finish())
}

fn config(layer: &[u8], flavour: &Flavour) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": "2000-01-01T00:00:00Z",
        "config": {
            "Entrypoint": ["/app"],
            "Env": flavour.env,
            "ExposedPorts": { "8080/tcp": {} },
            "WorkingDir": "/",
            "StopSignal": "SIGTERM",
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(layer))] },
        "history": [{ "created": "2000-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    })
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A ustar archive with fixed times and owners.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn directory(&mut self, name: &str) -> Result<()> {
        let mode = if name == "tmp/" { 0o1777 } else { 0o755 };
        self.header(name, 0, mode, b'5', "")
    }

    fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.header(name, 0, 0o777, b'2', to)
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        self.header(name, content.len(), mode, b'0', "")?;
        self.0.extend_from_slice(content);
        self.pad(512);
        Ok(())
    }

    fn header(&mut self, name: &str, size: usize, mode: u32, kind: u8, link: &str) -> Result<()> {
        if name.len() > 100 || link.len() > 100 {
            bail!("the name is too long for a tar header: {name}");
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, "00000000000");
        // the checksum counts its own field as blanks
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
        Ok(())
    }

    fn pad(&mut self, to: usize) {
        let length = self.0.len().next_multiple_of(to);
        self.0.resize(length, 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_archive() {
        let first = archive(b"program", &APP).unwrap();
        assert_eq!(first, archive(b"program", &APP).unwrap());
        assert_ne!(first, archive(b"another", &APP).unwrap());
        assert_ne!(first, archive(b"program", &FLAVOURS[1]).unwrap());
    }

    /// tar itself reads what we write, and finds the bytes.
    #[test]
    fn tar_reads_the_archive() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let tar = |args: &[&str], input: &[u8]| {
            let mut child =
                Command::new("tar").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success());
            output.stdout
        };
        let image = archive(b"the program", &APP).unwrap();
        let manifest: Value = serde_json::from_slice(&tar(&["-xOf", "-", "manifest.json"], &image)).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "portreeve/app:1");
        let layer = tar(&["-xOf", "-", manifest[0]["Layers"][0].as_str().unwrap()], &image);
        assert_eq!(tar(&["-xOf", "-", "app"], &layer), b"the program");
        let config = tar(&["-xOf", "-", manifest[0]["Config"].as_str().unwrap()], &image);
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", hex(&layer)));
    }

    #[test]
    fn numbers_in_headers_have_a_checksum_that_counts_blanks() {
        let mut tar = Tar::default();
        tar.file("a", b"", 0o644).unwrap();
        let sum: u32 = tar.0[..512]
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u32::from(b) })
            .sum();
        assert_eq!(&tar.0[148..154], format!("{sum:06o}").as_bytes());
        assert!(Tar::default().file(&"x".repeat(101), b"", 0).is_err());
    }
}

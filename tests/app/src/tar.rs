//! As much of `tar` and `test` as `kubectl cp` and `portreeve cp` run inside a container. Contents are not held: the
//! container has less memory than its files may have bytes.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

const BLOCK: usize = 512;

/// `test -d PATH`
pub fn is_directory(path: &str) -> Result<(), String> {
    if Path::new(path).is_dir() { Ok(()) } else { Err(format!("{path} is no directory")) }
}

/// `tar cf - PATH`, to standard output.
pub fn create(path: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    let end = |out: &mut io::StdoutLock| out.write_all(&[0; 2 * BLOCK]).and_then(|()| out.flush());
    pack(Path::new(path), &mut out).and_then(|()| end(&mut out)).map_err(|e| format!("tar: {path}: {e}"))
}

fn pack(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let name = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?.trim_start_matches('/');
    let mode = fs::metadata(path)?.permissions().mode() & 0o777;
    if path.is_dir() {
        out.write_all(&header(&format!("{name}/"), 0, b'5', mode)?)?;
        let mut entries: Vec<PathBuf> = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| pack(entry, out));
    }
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    out.write_all(&header(name, size, b'0', mode)?)?;
    let written = io::copy(&mut file.take(size), out)?;
    let padding = size.next_multiple_of(BLOCK as u64) - written;
    io::copy(&mut io::repeat(0).take(padding), out).map(drop)
}

fn header(name: &str, size: u64, kind: u8, mode: u32) -> io::Result<[u8; BLOCK]> {
    if name.len() > 100 {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let mut block = [0; BLOCK];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\0");
    put(263, "00");
    block[156] = kind;
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// `tar -x…f - [-C DIRECTORY]`, from standard input.
pub fn extract(directory: &str) -> Result<(), String> {
    unpack(&mut io::stdin().lock(), Path::new(directory)).map_err(|e| format!("tar: {directory}: {e}"))
}

fn unpack(input: &mut impl Read, directory: &Path) -> io::Result<()> {
    let mut block = [0; BLOCK];
    loop {
        input.read_exact(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            io::copy(input, &mut io::sink())?;
            return Ok(());
        }
        let text = |from: usize, to: usize| {
            let field = &block[from..to];
            let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let number = |from, to, radix| u64::from_str_radix(text(from, to).trim(), radix).map_err(io::Error::other);
        let size = number(124, 136, 8)?;
        let mode = Permissions::from_mode(number(100, 108, 8)? as u32 & 0o777);
        let path = directory.join(text(0, 100));
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        let mut content = input.take(size);
        match block[156] {
            b'5' => {
                fs::create_dir_all(&path)?;
                fs::set_permissions(&path, mode)?;
            }
            b'0' | 0 => {
                fs::create_dir_all(path.parent().unwrap_or(directory))?;
                let mut file = File::create(&path)?;
                if io::copy(&mut content, &mut file)? != size {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                file.set_permissions(mode)?;
            }
            // Extended headers: times and the like.
            _ => {}
        }
        let rest = content.limit() + size.next_multiple_of(BLOCK as u64) - size;
        io::copy(&mut input.take(rest), &mut io::sink())?;
    }
}

//! Certificates of our own making: a CA, certificates of servers, certificates of clients; and what one says of itself.
//!
//! Pure but for randomness. The API keeps what is made here for its own server and administrator; the command line, for
//! Docker daemons and those who call them; the docker room reads when the certificates of a connection end.

pub mod files;

use std::net::IpAddr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// Ten years: replacing a CA means giving every client another one to trust.
const CA_DAYS: i32 = 3650;
/// A year, for what is renewed without anyone noticing.
const LEAF_DAYS: i32 = 365;
/// A certificate with less time left is to be made anew.
pub const RENEW_BEFORE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// `common_name` tells CAs apart: a daemon names the CAs that it trusts, and a client that has several certificates
/// chooses by that.
pub fn make_ca(common_name: &str, now: Timestamp) -> Result<Pair, rcgen::Error> {
    let mut params = params(common_name, None, now, CA_DAYS)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A server's certificate for these host names and IP addresses.
pub fn make_server(ca: &Pair, common_name: &str, names: &[String], now: Timestamp) -> Result<Pair, rcgen::Error> {
    let mut params = params(common_name, None, now, LEAF_DAYS)?;
    params.subject_alt_names = CertificateParams::new(names.to_vec())?.subject_alt_names;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(ca, params)
}

/// A client's certificate: the user is the common name, the group the organization, as in Kubernetes.
pub fn make_client(ca: &Pair, user: &str, group: Option<&str>, now: Timestamp) -> Result<Pair, rcgen::Error> {
    let mut params = params(user, group, now, LEAF_DAYS)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(ca, params)
}

/// The certificate that an ACME server looks for in a handshake: for the name, with the digest of what it asked for
/// (RFC 8737 §3). Self-signed, and good for nothing else.
pub fn make_challenge(name: &str, digest: &[u8], now: Timestamp) -> Result<CertifiedKey, String> {
    let told = |e: rcgen::Error| e.to_string();
    let mut params = params("", None, now, 1).map_err(told)?;
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = CertificateParams::new(vec![name.to_owned()]).map_err(told)?.subject_alt_names;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(told)?;
    let certificate = params.self_signed(&key).map_err(told)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(key).map_err(|e| e.to_string())?;
    // Not looked at whether the two belong together: who looks knows no certificate with this critical extension.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

fn sign(ca: &Pair, mut params: CertificateParams) -> Result<Pair, rcgen::Error> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    now: Timestamp,
    days: i32,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name = name;
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    // Positive, and no leading zero byte that DER would have to drop.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // Yesterday: the client's clock may be behind ours.
    let (year, month, date) = day(now, -1);
    params.not_before = rcgen::date_time_ymd(year, month, date);
    let (year, month, date) = day(now, days);
    params.not_after = rcgen::date_time_ymd(year, month, date);
    Ok(params)
}

/// A day as rcgen takes it, at its beginning.
fn day(now: Timestamp, days: i32) -> (i32, u8, u8) {
    let day = now.checked_add(DAY * days).unwrap_or(now).to_zoned(TimeZone::UTC).date();
    (day.year().into(), day.month().unsigned_abs(), day.day().unsigned_abs())
}

/// Whether a certificate of ours is still good: signed by this CA, long enough, and for exactly these names.
pub fn is_good(certificate: &str, ca: &str, names: Option<&[String]>, now: Timestamp) -> bool {
    is_signed_by(certificate, ca) && lasts_for(certificate, names, now).unwrap_or(false)
}

/// Whether a certificate is good for long enough, and for exactly these names; `None` when it cannot be read.
fn lasts_for(certificate: &str, names: Option<&[String]>, now: Timestamp) -> Option<bool> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).ok()?;
    let leaf = pem.parse_x509().ok()?;
    let left = leaf.validity().not_after.timestamp() - now.as_second();
    let enough = left > RENEW_BEFORE.as_secs() && leaf.validity().not_before.timestamp() <= now.as_second();
    let same_names = match names {
        None => true,
        Some(names) => {
            let mut wanted: Vec<String> = names.to_vec();
            let mut has = alternative_names(&leaf)?;
            wanted.sort();
            has.sort();
            wanted == has
        }
    };
    Some(enough && same_names)
}

/// When a certificate ends, and the host names and addresses that it is for.
pub fn end_and_names(der: &[u8]) -> Option<(Timestamp, Vec<String>)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let end = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some((end, alternative_names(&certificate).unwrap_or_default()))
}

/// The same of the first certificate of a PEM text.
pub fn end_and_names_of_pem(text: &str) -> Option<(Timestamp, Vec<String>)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).ok()?;
    end_and_names(&pem.contents)
}

/// When a certificate begins.
pub fn beginning(der: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Timestamp::from_second(certificate.validity().not_before.timestamp()).ok()
}

/// The name of who signed a certificate, DER; as a server tells whose certificates it takes (RFC 8446, 4.2.4).
pub fn issuer(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.issuer().as_raw().to_vec())
}

/// Whether a certificate was signed by this CA, both PEM: by the ids of their keys.
pub fn is_signed_by(certificate: &str, ca: &str) -> bool {
    let read = |text: &str| x509_parser::pem::parse_x509_pem(text.as_bytes()).map(|(_, pem)| pem).ok();
    let Some((leaf, issuer)) = read(certificate).zip(read(ca)) else { return false };
    let (Ok(leaf), Ok(issuer)) = (leaf.parse_x509(), issuer.parse_x509()) else { return false };
    authority_key(&leaf).is_some_and(|id| subject_key(&issuer) == Some(id))
}

/// A chain and its key, PEM, as TLS uses them: they belong together.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("the certificate is no PEM: {e}"))?;
    if chain.is_empty() {
        return Err("the certificate's file holds none".into());
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("the key is no PEM: {e}"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map_err(|e| format!("the certificate and the key cannot be used together: {e}"))
}

/// Whether certificate and key are halves of one pair.
pub fn belongs(pair: &Pair) -> bool {
    KeyPair::from_pem(&pair.key).is_ok_and(|key| is_for_key(&pair.certificate, &key))
}

/// The id of the key that signed a certificate.
fn authority_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|k| k.0),
        _ => None,
    })
}

/// The id of a certificate's own key.
fn subject_key<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Option<Vec<String>> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(dns) => Some((*dns).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    };
    names.iter().map(text).collect()
}

/// Whether a certificate is for this key.
fn is_for_key(certificate: &str, key: &KeyPair) -> bool {
    use rcgen::PublicKeyData;
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()) else { return false };
    pem.parse_x509().is_ok_and(|c| c.public_key().subject_public_key.data == key.der_bytes())
}

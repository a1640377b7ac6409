//! Which hub, and who asks.

use crate::error::HubError;
use std::fmt;
use std::path::PathBuf;
use ureq::http::Uri;

/// The address of the hub that is asked if no other is named.
const DEFAULT: &str = "https://huggingface.co";

/// The address of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    url: String,
    origin: Origin,
}

impl Endpoint {
    /// The hub at `url`, such as `https://huggingface.co`: a scheme, a host, and a path where there is one.
    ///
    /// # Errors
    /// [`HubError::Endpoint`] for anything else.
    pub fn new(url: &str) -> Result<Endpoint, HubError> {
        let url = url.trim_end_matches('/');
        let malformed = || HubError::Endpoint { endpoint: url.to_string() };
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        let origin = Origin::of(&uri).filter(|_| uri.query().is_none()).ok_or_else(malformed)?;
        Ok(Endpoint { url: url.to_string(), origin })
    }

    /// The hub that `HF_ENDPOINT` names, else `https://huggingface.co`.
    ///
    /// # Errors
    /// [`HubError::Endpoint`] if the variable holds no address.
    pub fn from_env() -> Result<Endpoint, HubError> {
        Endpoint::new(&variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT.to_string()))
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }
}

/// Scheme, host and port: what a token is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) encrypted: bool,
    pub(crate) host: String,
    port: u16,
}

impl Origin {
    /// Of an absolute address by HTTP; `None` for another.
    pub(crate) fn of(uri: &Uri) -> Option<Origin> {
        let encrypted = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return None,
        };
        let host = uri.host().filter(|host| !host.is_empty())?.to_ascii_lowercase();
        // Names and passwords in an address are of no hub.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return None;
        }
        Some(Origin { encrypted, host, port: uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 }) })
    }

    /// Whether what is sent stays unread on the way: encrypted, or on this machine.
    pub(crate) fn is_private(&self) -> bool {
        self.encrypted || matches!(self.host.as_str(), "127.0.0.1" | "localhost" | "[::1]")
    }
}

/// What proves to a hub who asks. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// This token; `None` if it is empty, or holds what no token does.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Token(text.to_string()))
    }

    /// The user's: `HF_TOKEN`, else the file that `hf auth login` writes. `None` with `HF_HUB_DISABLE_IMPLICIT_TOKEN`,
    /// or if there is neither.
    pub fn from_env() -> Option<Token> {
        if flag("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            return None;
        }
        let named = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN"));
        if let Some(token) = named.as_deref().and_then(Token::new) {
            return Some(token);
        }
        let file = variable("HF_TOKEN_PATH").map(PathBuf::from);
        let file = file.or_else(|| Some(PathBuf::from(variable("HF_HOME")?).join("token")));
        let file = file.or_else(|| Some(PathBuf::from(variable("XDG_CACHE_HOME")?).join("huggingface/token")));
        let file = file.or_else(|| Some(std::env::home_dir()?.join(".cache/huggingface/token")))?;
        let text = std::fs::read(file).ok().filter(|bytes| bytes.len() < 4096)?;
        Token::new(std::str::from_utf8(&text).ok()?)
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A variable of the environment that is set to something.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether a variable of the environment says yes, as huggingface_hub reads it.
pub(crate) fn flag(name: &str) -> bool {
    variable(name).is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hubs() {
        for url in ["https://huggingface.co", "https://hub.example.com:8443/mirror/", "http://127.0.0.1:80"] {
            assert_eq!(Endpoint::new(url).unwrap().url(), url.trim_end_matches('/'));
        }
        for url in ["", "huggingface.co", "ftp://host", "https://", "https://user:word@host", "https://host?x=1"] {
            assert!(matches!(Endpoint::new(url), Err(HubError::Endpoint { .. })), "{url}");
        }
    }

    #[test]
    fn the_default_port_is_no_other_origin() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
        assert_eq!(origin("https://Host/a"), origin("https://host:443/b"));
        assert_ne!(origin("https://host"), origin("http://host"));
        assert_ne!(origin("https://host"), origin("https://host:8443"));
        assert_ne!(origin("https://host"), origin("https://host.example.com"));
        assert!(origin("https://host").is_private() && origin("http://localhost:1").is_private());
        assert!(!origin("http://host").is_private());
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::new(" hf_secret\n").unwrap();
        assert_eq!(token.header(), "Bearer hf_secret");
        assert!(!format!("{token:?}").contains("secret"));
        assert!(["", " ", "a b", "a\nb"].iter().all(|text| Token::new(text).is_none()));
    }
}

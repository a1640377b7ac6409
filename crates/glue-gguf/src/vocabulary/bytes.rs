//! Names of tokens of single bytes in tokenizers in the style of SentencePiece.

/// The byte that the token `<0xE2>` stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if is_hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The token of a byte.
pub(crate) fn token_of(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_one_token_each() {
        assert!((0..=255).all(|byte| byte_of(&token_of(byte)) == Some(byte)));
        for other in ["<0xe2>", "<0xE>", "<0x+1>", "0xE2", "<0xE22>"] {
            assert_eq!(byte_of(other), None, "{other}");
        }
    }
}

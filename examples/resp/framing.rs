//! Commands as Redis has them: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`.

use rpc_transport::{FrameError, Framing, Next, Span};

/// Most words of a command, bytes of a word, and keys.
pub(crate) const MOST: [usize; 3] = [64, 1 << 20, 1 << 20];

/// The number behind `mark` and what follows its line, such as `$3\r\n`; `None` if the line is not whole.
fn number(input: &[u8], mark: u8, most: usize) -> Result<Option<(usize, &[u8])>, FrameError> {
    let end = input.iter().take(16).position(|byte| *byte == b'\n');
    let wrong = || FrameError::invalid("no length within its limit where one is due", input);
    let Some(end) = end else { return if input.len() < 16 { Ok(None) } else { Err(wrong()) } };
    let text = input[..end].strip_prefix(&[mark]).and_then(|line| std::str::from_utf8(line).ok());
    let number = text.and_then(|text| text.trim_end().parse().ok()).filter(|number| *number <= most);
    Ok(Some((number.ok_or_else(wrong)?, &input[end + 1..])))
}

pub(crate) type Command<'a> = (Vec<&'a [u8]>, usize);

/// The words of the command at the front, and its length: `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`.
pub(crate) fn command(input: &[u8]) -> Result<Option<Command<'_>>, FrameError> {
    let Some((count, mut rest)) = number(input, b'*', MOST[0])? else { return Ok(None) };
    let mut words = Vec::new();
    for _ in 0..count {
        let Some((len, after)) = number(rest, b'$', MOST[1])? else { return Ok(None) };
        let Some((word, after)) = after.split_at_checked(len + 2) else { return Ok(None) };
        words.push(&word[..len]);
        rest = after;
    }
    Ok(Some((words, input.len() - rest.len())))
}

pub(crate) struct Resp;

impl Framing for Resp {
    fn next(&mut self, input: &[u8]) -> Result<Next, FrameError> {
        let whole = command(input)?.map(|(_, len)| Next::Frame(Span { skip: 0, len, tail: 0 }));
        Ok(whole.unwrap_or(Next::More { need: input.len() + 1 }))
    }
}

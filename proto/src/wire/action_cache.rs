//! `GetActionResult`: asked once an action, so a hit is mostly this.

use super::WireFault;
use super::batch_request::check_field_count;
use super::fields::Fields;
use super::raw_digest::RawDigest;

/// A `GetActionResultRequest`.
#[derive(Clone, Copy, Debug, Default)]
pub struct GetActionResult<'m> {
    /// Any text.
    pub instance_name: &'m str,
    /// The action whose result is asked for.
    pub action_digest: Option<RawDigest<'m>>,
    /// Wants stdout in the answer.
    pub inline_stdout: bool,
    /// Wants stderr in the answer.
    pub inline_stderr: bool,
    /// `DigestFunction.Value`, any number.
    pub digest_function: i32,
    message: &'m [u8],
}

const INLINE_OUTPUT_FILES: u32 = 5;

impl<'m> GetActionResult<'m> {
    /// Reads a request.
    pub fn parse(message: &'m [u8]) -> Result<Self, WireFault> {
        check_field_count(message)?;
        let mut request = Self { message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => request.instance_name = field.string()?,
                2 => request.action_digest.get_or_insert_default().merge(1, field.bytes()?)?,
                3 => request.inline_stdout = field.bool()?,
                4 => request.inline_stderr = field.bool()?,
                INLINE_OUTPUT_FILES => drop(field.string()?),
                6 => request.digest_function = field.int32()?,
                _ => (),
            }
        }
        Ok(request)
    }

    /// Paths of output files that are wanted in the answer, in order. Read from the message each time: a list of them would take eight times the
    /// bytes it came in.
    pub fn inline_output_files(&self) -> impl Iterator<Item = &'m str> + use<'m> {
        let mut fields = Fields::new(self.message);
        std::iter::from_fn(move || {
            while let Ok(Some(field)) = fields.next() {
                if field.number == INLINE_OUTPUT_FILES {
                    return Some(field.string().expect("the message was parsed before"));
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two bytes of message would become a path of many more in the handler's list.
    #[test]
    fn a_list_of_nothing_is_refused() {
        assert!(GetActionResult::parse(&[0x2a, 0].repeat(1000)).is_ok());
        assert!(GetActionResult::parse(&[0x2a, 0].repeat(4 << 20)).is_err());
    }
}

//! Bytes of ids and tokens: a writer into a buffer on the stack and a reader that never panics.
//!
//! The writer panics past its capacity: its callers write bounded fields only, and size the buffer for all of them.

/// Appends fields to a fixed buffer.
pub(crate) struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    pub(crate) fn new() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
    pub(crate) fn put(&mut self, field: &[u8]) -> &mut Self {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
        self
    }
    pub(crate) fn u8(&mut self, field: u8) -> &mut Self {
        self.put(&[field])
    }
    /// The low 48 bits, big endian.
    pub(crate) fn u48(&mut self, field: u64) -> &mut Self {
        self.put(&field.to_be_bytes()[2..])
    }
    /// Its length in one byte, then the text; callers keep it below 256 bytes.
    pub(crate) fn short(&mut self, field: &str) -> &mut Self {
        let len = u8::try_from(field.len()).expect("callers write names and bounded subjects");
        self.u8(len).put(field.as_bytes())
    }
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Takes fields off the front; `None` when there is not enough.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(field)
    }
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }
    pub(crate) fn u48(&mut self) -> Option<u64> {
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(self.take(6)?);
        Some(u64::from_be_bytes(wide))
    }
    pub(crate) fn short(&mut self) -> Option<&'a str> {
        let len = self.u8()?;
        std::str::from_utf8(self.take(usize::from(len))?).ok()
    }
    /// `Some` when nothing is left over.
    pub(crate) fn end(&self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

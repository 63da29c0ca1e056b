//! Rows in the binary format of `COPY`, which PostgreSQL takes at about half the cost of an `INSERT … ON CONFLICT`: no
//! parsing, no plan, many rows to a page and to a WAL record at once.
//!
//! Must never: leave a row with another number of columns than it was begun with (PostgreSQL would refuse it all).

use bytes::{BufMut as _, Bytes, BytesMut};
use uuid::Uuid;

/// What a file of this format begins with: signature, flags, length of a header extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// About what a held reservation takes.
const ROW_BYTES: usize = 160;

/// Rows under construction.
pub(super) struct Rows {
    bytes: BytesMut,
    columns: i16,
    /// Columns that the row under construction has yet to get.
    missing: i16,
}

impl Rows {
    /// For about so many rows of so many columns.
    pub(super) fn new(rows: usize, columns: i16) -> Self {
        let mut bytes = BytesMut::with_capacity(HEAD.len() + rows * ROW_BYTES);
        bytes.put_slice(HEAD);
        Self { bytes, columns, missing: 0 }
    }

    /// Begins the next row.
    pub(super) fn row(&mut self) -> &mut Self {
        assert!(self.missing == 0, "a row lacks {} columns", self.missing);
        self.missing = self.columns;
        self.bytes.put_i16(self.columns);
        self
    }

    /// A `smallint`.
    pub(super) fn small(&mut self, value: i16) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// An `integer`.
    pub(super) fn integer(&mut self, value: i32) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// A `bigint`, or a time in microseconds since 2000.
    pub(super) fn big(&mut self, value: i64) -> &mut Self {
        self.field(&value.to_be_bytes())
    }

    /// A `uuid`, or NULL.
    pub(super) fn uuid(&mut self, value: Option<Uuid>) -> &mut Self {
        match value {
            Some(value) => self.field(value.as_bytes()),
            None => {
                self.missing -= 1;
                self.bytes.put_i32(-1);
                self
            }
        }
    }

    /// A text, or a value of an enum.
    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.field(value.as_bytes())
    }

    fn field(&mut self, value: &[u8]) -> &mut Self {
        self.missing -= 1;
        self.bytes.put_i32(value.len() as i32);
        self.bytes.put_slice(value);
        self
    }

    /// All of them, with the end mark.
    pub(super) fn finish(mut self) -> Bytes {
        assert!(self.missing == 0, "the last row lacks {} columns", self.missing);
        self.bytes.put_i16(-1);
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_what_postgresql_documents() {
        let mut rows = Rows::new(1, 3);
        rows.row().small(258).uuid(None).text("held");
        let mut wanted = HEAD.to_vec();
        wanted.extend([0, 3, 0, 0, 0, 2, 1, 2, 255, 255, 255, 255, 0, 0, 0, 4]);
        wanted.extend(b"held\xff\xff");
        assert_eq!(rows.finish(), wanted);
        assert_eq!(HEAD.len(), 19);
    }

    #[test]
    #[should_panic(expected = "lacks 1 columns")]
    fn a_short_row_is_not_sent() {
        let mut rows = Rows::new(1, 2);
        rows.row().big(1);
        rows.finish();
    }
}

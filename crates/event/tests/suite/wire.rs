//! The wire format by itself: every kind of field is read as it was written, and prost agrees.

use barrage_event::proto;
use barrage_event::wire::{Field, Reader, Value, WireError, Writer};
use proptest::prelude::{any, prop_assert_eq, proptest};
use prost::Message as _;

fn write(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Writer::new(&mut bytes));
    bytes
}

fn fields(bytes: &[u8]) -> Vec<Field<'_>> {
    let mut reader = Reader::new(bytes);
    std::iter::from_fn(|| reader.next_field().expect("just written")).collect()
}

proptest! {
    #[test]
    fn numbers_are_read_as_they_were_written(number in 1..1_u32 << 29, u: u64, i: i64, f in any::<f64>(), b: bool) {
        let bytes = write(|w| {
            w.opt_uint64(number, Some(u));
            w.opt_int64(number, Some(i));
            w.opt_sint64(number, Some(i));
            w.bool(number, b);
            w.fixed64(number, u);
            w.double(number, f);
            // Values of proto3's default are left out.
            w.uint64(number, 0);
            w.opt_uint64(number, None);
        });
        let mut fields = fields(&bytes).into_iter();
        let mut next = || fields.next().expect("as many as written");
        let field = next();
        prop_assert_eq!((field.number, field.uint64()), (number, Ok(u)));
        prop_assert_eq!(u64::from(field.uint32().unwrap()), u & 0xffff_ffff);
        prop_assert_eq!(field.bytes(), Err(WireError::WrongType(number)));
        let field = next();
        prop_assert_eq!(field.int64(), Ok(i));
        prop_assert_eq!(i64::from(field.int32().unwrap()).cast_unsigned() & 0xffff_ffff, i.cast_unsigned() & 0xffff_ffff);
        prop_assert_eq!(next().sint64(), Ok(i));
        if b {
            prop_assert_eq!(next().bool(), Ok(true));
        }
        if u != 0 {
            prop_assert_eq!(next().fixed64(), Ok(u));
        }
        if f.to_bits() != 0 {
            prop_assert_eq!(next().double().map(f64::to_bits), Ok(f.to_bits()));
        }
        prop_assert_eq!(fields.next(), None);
    }

    #[test]
    fn messages_of_any_length_get_the_right_prefix(inner in 0..40_000_usize, depth in 1..4_u32) {
        // Lengths around 127 and 16,383 change the size of the prefix.
        let text = "x".repeat(inner);
        fn nest(w: &mut Writer<'_>, depth: u32, text: &str) {
            if depth == 0 { w.string(1, text) } else { w.message(depth, |w| nest(w, depth - 1, text)) }
        }
        let bytes = write(|w| nest(w, depth, &text));
        let mut rest = bytes.as_slice();
        for depth in (1..=depth).rev() {
            let [field] = fields(rest)[..] else { panic!("one message") };
            prop_assert_eq!(field.number, depth);
            rest = field.bytes().unwrap();
        }
        match fields(rest)[..] {
            [] => prop_assert_eq!(inner, 0),
            [field] => prop_assert_eq!(field.string(), Ok(text.as_str())),
            ref more => panic!("{more:?}"),
        }
    }

    #[test]
    fn prost_reads_our_numbers(original: Option<i64>, occurred: i64, incarnation: u64, sequence: u64, app: u32) {
        let bytes = write(|w| {
            w.uint64(2, app.into());
            w.int64(4, occurred);
            w.fixed64(6, incarnation);
            w.uint64(7, sequence);
            w.opt_sint64(12, original);
        });
        let expected = proto::Envelope {
            sdk_app_id: app, occurred_at: occurred, incarnation, sequence, original_event_time: original,
            ..Default::default()
        };
        prop_assert_eq!(proto::Envelope::decode(bytes.as_slice()), Ok(expected));
    }

    #[test]
    fn any_bytes_read_as_fields_or_give_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut reader = Reader::new(&bytes);
        let mut read = 0;
        while let Ok(Some(field)) = reader.next_field() {
            prop_assert_eq!(matches!(field.value, Value::Bytes(_)), field.bytes().is_ok());
            read += 1;
        }
        prop_assert_eq!(reader.position() <= bytes.len() && read <= bytes.len(), true);
    }
}

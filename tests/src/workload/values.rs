//! Awkward values: every BSON type, the ends of every range, and text that breaks careless writers.

use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, cstr, doc,
    oid::ObjectId, spec::BinarySubtype,
};
use rand::{Rng, RngExt, rngs::StdRng, seq::IndexedRandom};

/// Text that needs escapes, or that looks as if it did.
const TEXTS: [&str; 14] = [
    "",
    "plain",
    "quote \" backslash \\ slash /",
    "\u{0}\u{1}\u{8}\t\n\u{b}\u{c}\r\u{1f}\u{7f}",
    "line\u{2028}separator\u{2029}",
    "ünïcødé ß 漢字",
    "😀 👩‍👩‍👧 \u{10ffff}",
    "\u{feff}bom \u{fffd}",
    "{\"$oid\":\"66c1\"}",
    "\\u0041 %00 ${x} </script>",
    "null",
    "1e999",
    "_kafka",
    "ends with a backslash \\",
];

/// Names of fields. The empty one, dots and dollars are legal inside a document since MongoDB 5.0.
const NAMES: [&str; 12] = [
    "a",
    "b",
    "",
    "with.dot",
    "$dollar",
    "$oid",
    "ünï",
    "quo\"te",
    "_kafka",
    "_meta",
    "line\nbreak",
    "\u{2028}",
];

const DECIMALS: [&str; 10] = [
    "0",
    "-0",
    "0E-6176",
    "1.10",
    "-1.50E+7",
    "9.999999999999999999999999999999999E+6144",
    "NaN",
    "Infinity",
    "-Infinity",
    "123456789012345678901234567890",
];

/// Milliseconds: before 1970, the ends of what ISO can say, after year 9999, and both ends.
const DATES_MS: [i64; 10] = [
    0,
    -1,
    -62_135_596_800_000,
    1_234_567_890_120,
    1_234_567_890_123,
    253_402_300_799_999,
    253_402_300_800_000,
    i64::MAX,
    i64::MIN,
    951_782_400_000,
];

/// An ordinary document with a few awkward members; `_id` first.
pub(super) fn document(random: &mut StdRng, id: Bson) -> Document {
    let mut document = doc! {
        "_id": id,
        "n": random.random::<i64>(),
        "list": [1, 2, 3, 4],
        "inner": { "x": 1.5, "y": "z" },
    };
    for _ in 0..random.random_range(0..4_u32) {
        // Names at the top level start with no dollar: `$`-names there are refused in some commands.
        let name = format!("f{}", random.random_range(0..20_u32));
        document.insert(name, value(random, 3));
    }
    // Size is rare: it is there to be met, not to fill the disk.
    if random.random_ratio(1, 400) {
        document.insert("long", "x\"é\u{2028}".repeat(40_000));
    }
    if random.random_ratio(1, 60) {
        document.insert("deep", nested(50));
    }
    document
}

/// Any value that a document may hold, nested at most `depth` levels.
pub(super) fn value(random: &mut StdRng, depth: u32) -> Bson {
    let kinds = if depth == 0 { 19 } else { 22 };
    match random.random_range(0..kinds) {
        0 => Bson::Double(double(random)),
        1 => Bson::String(text(random)),
        2 => Bson::Boolean(random.random()),
        3 => Bson::Null,
        4 => Bson::Int32(*[0, -1, i32::MIN, i32::MAX].choose(random).expect("not empty")),
        5 => Bson::Int64(
            *[0, -1, i64::MIN, i64::MAX, 1 << 53, (1 << 53) + 1].choose(random).expect("not empty"),
        ),
        6 => Bson::ObjectId(object_id(random)),
        7 => date(random),
        8 => decimal(random),
        9 => binary(random),
        10 => Bson::RegularExpression(regex(random)),
        11 => Bson::JavaScriptCode("function () { return \"x\"; }".to_owned()),
        12 => Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope {
            code: "f(x)".to_owned(),
            scope: doc! { "x": 1, "$y": "\u{0}" },
        }),
        13 => Bson::Timestamp(Timestamp { time: random.random(), increment: random.random() }),
        14 => Bson::MinKey,
        15 => Bson::MaxKey,
        16 => Bson::Symbol("symbol \"s\"".to_owned()),
        17 => Bson::Undefined,
        18 => Bson::Document(Document::new()),
        19 | 20 => {
            let count = random.random_range(0..4_u32);
            let members = (0..count).map(|_| {
                let name = NAMES.choose(random).expect("not empty");
                ((*name).to_owned(), value(random, depth - 1))
            });
            Bson::Document(members.collect())
        }
        _ => {
            let count = random.random_range(0..4_u32);
            Bson::Array((0..count).map(|_| value(random, depth - 1)).collect())
        }
    }
}

/// An `_id` of any type that MongoDB takes. `serial` is unique within a run and keeps most of them apart.
pub(super) fn id(random: &mut StdRng, serial: i64) -> Bson {
    match random.random_range(0..16_u32) {
        0..=2 => Bson::ObjectId(object_id(random)),
        3 => Bson::Int32(i32::try_from(serial % i64::from(i32::MAX)).expect("below the modulus")),
        // Beyond 2^53, where a double can no longer tell neighbours apart.
        4 => Bson::Int64((1 << 60) + serial),
        5 => Bson::Int64(-serial),
        6 => Bson::Double(f64::from(random.random::<u32>()) / 7.0),
        7 => Bson::String(format!("{}-{serial}", text(random))),
        8 => {
            Bson::Binary(Binary { subtype: BinarySubtype::Uuid, bytes: random.random::<[u8; 16]>().to_vec() })
        }
        9 => Bson::Document(doc! { "region": text(random), "number": serial }),
        10 => Bson::DateTime(DateTime::from_millis(random.random())),
        11 => Bson::Boolean(random.random()),
        12 => Bson::Null,
        13 => Bson::Decimal128(format!("{serial}.50").parse::<Decimal128>().expect("a decimal")),
        14 => Bson::Binary(Binary {
            subtype: BinarySubtype::Generic,
            bytes: random.random::<[u8; 5]>().to_vec(),
        }),
        _ => Bson::Timestamp(Timestamp { time: random.random(), increment: random.random() }),
    }
}

fn text(random: &mut StdRng) -> String {
    (*TEXTS.choose(random).expect("not empty")).to_owned()
}

fn double(random: &mut StdRng) -> f64 {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.5,
        0.1 + 0.2,
        1e21,
        1e-7,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        9_007_199_254_740_993.0,
    ];
    // Half of them with random digits, so that printing and reading are tried all over the range.
    if random.random() {
        *special.choose(random).expect("not empty")
    } else {
        let number = f64::from_bits(random.next_u64());
        if number.is_nan() { 0.25 } else { number }
    }
}

fn date(random: &mut StdRng) -> Bson {
    Bson::DateTime(DateTime::from_millis(*DATES_MS.choose(random).expect("not empty")))
}

fn decimal(random: &mut StdRng) -> Bson {
    let text = DECIMALS.choose(random).expect("not empty");
    Bson::Decimal128(text.parse().expect("the list holds decimals"))
}

fn binary(random: &mut StdRng) -> Bson {
    let subtypes = [
        BinarySubtype::Generic,
        BinarySubtype::Function,
        BinarySubtype::Uuid,
        BinarySubtype::Md5,
        BinarySubtype::UserDefined(0x80),
        BinarySubtype::UserDefined(0xff),
    ];
    let subtype = *subtypes.choose(random).expect("not empty");
    let length = match subtype {
        BinarySubtype::Uuid | BinarySubtype::Md5 => 16,
        _ => random.random_range(0..40_usize),
    };
    let mut bytes = vec![0; length];
    random.fill(bytes.as_mut_slice());
    Bson::Binary(Binary { subtype, bytes })
}

fn regex(random: &mut StdRng) -> Regex {
    let patterns = [cstr!("^a/b$"), cstr!("\"\\d+\""), cstr!("ü|漢"), cstr!("")];
    let pattern = *patterns.choose(random).expect("not empty");
    Regex { pattern: pattern.into(), options: cstr!("im").into() }
}

fn object_id(random: &mut StdRng) -> ObjectId {
    ObjectId::from_bytes(random.random())
}

/// `{"d": {"d": … }}`.
fn nested(levels: u32) -> Bson {
    (0..levels).fold(Bson::Int32(1), |inner, _| Bson::Document(doc! { "d": inner }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_type_is_made_and_a_seed_repeats_itself() {
        let make = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..2_000).map(|_| value(&mut random, 3)).collect::<Vec<_>>()
        };
        let types: HashSet<String> =
            make(1).iter().map(|value| format!("{:?}", value.element_type())).collect();
        // All types of the specification but DBPointer, which no driver can make any more.
        assert_eq!(types.len(), 20);
        let bytes = |values: Vec<Bson>| bson::serialize_to_vec(&doc! { "all": values }).ok();
        assert_eq!(bytes(make(2)), bytes(make(2)));
    }
}

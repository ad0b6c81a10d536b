//! The scheme of the lake's folders: where a collection lies, and where an hour lies below it.
//!
//! ```text
//!   raw/{db}.{coll} / dt={yyyy}-{MM}-{dd} / hr={HH}          hive = {db}/{coll}/year={yyyy}/month={MM}/day={dd}/hour={HH}
//!   └─ place ─────┘   └─ time ──────────────────┘
//! ```
//!
//! Invariants, of every template that [`Layout::parse`] lets through:
//! - Two namespaces never share a folder, nor two hours of one. A name is escaped, so it never leaves its folder; where both names stand in
//!   one folder, what separates them is escaped in the first one.
//! - All collections lie equally deep, and all hours too: no collection's folder is another's hour, or lies in it.
//! - The place comes before the time, so that a collection is one folder to be listed.
//! - No folder hides from readers, and none can be `_chain` or `_control`.
//! - The hour can be read back from the path of anything in its folder.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use thiserror::Error;

use crate::{
    event_hour::EventHour,
    head::Head,
    lake_path::{CONTROL_FOLDER, LakePath, SEGMENT_LEN_MAX, TopicFolder, segment},
    topic_content::TopicContent,
};

/// What `LAYOUT=hive` stands for.
const HIVE: &str = "{db}/{coll}/year={yyyy}/month={MM}/day={dd}/hour={HH}";

/// Its name.
const HIVE_NAME: &str = "hive";

/// Bytes of a template. With both names at their longest a path stays far below the 1,024 characters of a blob's name.
const TEMPLATE_LEN_MAX: usize = 200;

/// Bytes of one folder's own text: with the longest name beside it, it is below the 255 that file systems allow.
const TEXT_LEN_MAX: usize = 40;

/// A scheme of folders that keeps collections and hours apart. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(Arc<Scheme>);

#[derive(Debug, PartialEq, Eq)]
struct Scheme {
    template: String,
    /// Folders down to the collection's own.
    place: Vec<Vec<Part>>,
    /// Those of the hour below it.
    time: Vec<Vec<Part>>,
}

/// What a folder's name is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(NamePart),
    Time(TimePart),
}

/// A database's or a collection's name, escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NamePart {
    of: Placeholder,
    len_max: usize,
    /// The other name follows in the same folder, behind this character: it is escaped here.
    apart: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TimePart {
    of: Placeholder,
    digits: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placeholder {
    Database,
    Collection,
    Year,
    Month,
    Day,
    Hour,
}

impl Placeholder {
    const ALL: [Self; 6] = [Self::Database, Self::Collection, Self::Year, Self::Month, Self::Day, Self::Hour];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "{db}",
            Self::Collection => "{coll}",
            Self::Year => "{yyyy}",
            Self::Month => "{MM}",
            Self::Day => "{dd}",
            Self::Hour => "{HH}",
        }
    }

    const fn is_name(self) -> bool {
        matches!(self, Self::Database | Self::Collection)
    }

    fn part(self) -> Part {
        match self {
            Self::Database | Self::Collection => {
                Part::Name(NamePart { of: self, len_max: SEGMENT_LEN_MAX, apart: None })
            }
            Self::Year => Part::Time(TimePart { of: self, digits: 4 }),
            Self::Month | Self::Day | Self::Hour => Part::Time(TimePart { of: self, digits: 2 }),
        }
    }
}

impl fmt::Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LayoutMistake {
    #[error("{0} is missing")]
    Missing(Placeholder),
    #[error("{0} stands there more than once")]
    Twice(Placeholder),
    #[error("`{0}` is no placeholder")]
    Unknown(String),
    #[error("`{0}` may not stand in a folder's name; letters, digits and - _ . = , + ~ may")]
    Character(char),
    #[error("a slash at the begin or end, or two in a row, leaves a folder without a name")]
    NoName,
    #[error(
        "`{0}`: a folder that begins with _ or . is hidden from readers, and _chain and _control are the lake's own"
    )]
    Hidden(String),
    #[error("`{0}`: a folder's own text must not hold two dots in a row, nor end with one")]
    Dots(String),
    #[error("`{0}`: a folder's own text may have {TEXT_LEN_MAX} characters")]
    LongText(String),
    #[error("it has {0} characters, and may have {TEMPLATE_LEN_MAX}")]
    Long(usize),
    #[error(
        "`{0}`: two collections could share this folder, as a-b + c and a + b-c do in {{db}}-{{coll}}; put / between the names, or one of . _ = , + ~"
    )]
    NotApart(String),
    #[error(
        "{0} stands before or beside the collection's part: a collection must be one folder that can be listed, so {{db}} and {{coll}} come first"
    )]
    TimeFirst(Placeholder),
}

impl Layout {
    /// `LAYOUT=hive`: folders that readers take for columns.
    ///
    /// # Panics
    /// Never: its template is tested.
    pub fn hive() -> Self {
        Self::parse(HIVE_NAME).expect("the template is right")
    }

    /// The hours of definitions. No collection's folder is `_control`.
    fn control() -> Self {
        static CONTROL: LazyLock<Layout> = LazyLock::new(|| {
            let Scheme { template, time, .. } = &*Layout::hive().0;
            let place = vec![vec![Part::Text(CONTROL_FOLDER.to_owned())]];
            Layout(Arc::new(Scheme { template: template.clone(), place, time: time.clone() }))
        });
        CONTROL.clone()
    }

    fn is_control(&self) -> bool {
        matches!(&self.0.place[..], [folder] if matches!(&folder[..], [Part::Text(text)] if text == CONTROL_FOLDER))
    }

    /// A template, or `hive`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<LayoutMistake>> {
        let template = if text == HIVE_NAME { HIVE } else { text };
        let mut mistakes = Mistakes::default();
        if template.len() > TEMPLATE_LEN_MAX {
            mistakes.add(LayoutMistake::Long(template.chars().count()));
        }
        let folders: Vec<Vec<Part>> =
            template.split('/').map(|folder| parse_folder(folder, &mut mistakes)).collect();
        check_placeholders(&folders, &mut mistakes);
        if !mistakes.0.is_empty() {
            return Err(mistakes.0);
        }
        let mut place = folders;
        let last = place.iter().rposition(|folder| folder.iter().any(is_name)).unwrap_or_default();
        let time = place.split_off(last + 1);
        Ok(Self(Arc::new(Scheme { template: template.to_owned(), place, time })))
    }

    /// Where a topic's files lie: those of a collection as the layout says; definitions always below `_control`, as hive has it.
    ///
    /// # Panics
    /// Never: what the names are put together to is a path.
    pub fn folder(&self, content: &TopicContent) -> TopicFolder {
        let Some(namespace) = content.namespace() else {
            let path = LakePath::new(CONTROL_FOLDER).expect("a name is a path");
            return TopicFolder::new(path, Self::control());
        };
        let mut path = String::with_capacity(self.0.template.len() + 32);
        for folder in &self.0.place {
            if !path.is_empty() {
                path.push('/');
            }
            for part in folder {
                match part {
                    Part::Text(text) => path.push_str(text),
                    Part::Name(NamePart { of, len_max, apart }) => {
                        let name = if *of == Placeholder::Database { &namespace.db } else { &namespace.coll };
                        path.push_str(&segment(name, *len_max, *apart));
                    }
                    Part::Time(_) => unreachable!("the time comes after the place"),
                }
            }
        }
        let path = LakePath::new(path).expect("escaped names and checked text are a path");
        TopicFolder::new(path, self.clone())
    }

    /// Whether a head's file lies where it has to; a head that names none agrees with every layout.
    pub fn puts(&self, head: &Head) -> bool {
        match (&head.path, head.first, head.content()) {
            (Some(path), Some(first), Some(content)) => {
                self.folder(&content).is_at(path, head.partition, first)
            }
            (Some(_), ..) => false,
            (None, ..) => true,
        }
    }

    /// An hour's folder below its collection's.
    pub fn hour(&self, hour: EventHour) -> String {
        let calendar = hour.calendar();
        let mut path = String::with_capacity(self.0.template.len() + 8);
        for folder in &self.0.time {
            if !path.is_empty() {
                path.push('/');
            }
            for part in folder {
                match part {
                    Part::Text(text) => path.push_str(text),
                    Part::Time(TimePart { of, digits }) => {
                        use fmt::Write;
                        let number = calendar[index(*of)];
                        write!(path, "{number:0digits$}").expect("writing to a String cannot fail");
                    }
                    Part::Name(_) => unreachable!("the place comes before the time"),
                }
            }
        }
        path
    }

    /// The hour whose folder a file lies in; `None` for every other path.
    pub fn hour_of(&self, path: &LakePath) -> Option<EventHour> {
        let is_control = path.as_str().split('/').next() == Some(CONTROL_FOLDER);
        if is_control && !self.is_control() {
            return Self::control().hour_of(path);
        }
        let mut folders = path.as_str().rsplit('/').skip(1);
        let mut calendar = [0; 4];
        for folder in self.0.time.iter().rev() {
            read_folder(folder, folders.next()?, &mut calendar)?;
        }
        let is_as_deep = folders.count() == self.0.place.len();
        let [year, month, day, hour] = calendar;
        is_as_deep.then(|| EventHour::from_calendar(i32::try_from(year).ok()?, month, day, hour)).flatten()
    }
}

/// As it is set: `hive`, or the template.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = self.0.template.as_str();
        f.write_str(if template == HIVE { HIVE_NAME } else { template })
    }
}

fn is_name(part: &Part) -> bool {
    matches!(part, Part::Name(_))
}

/// Of year, month, day, hour.
fn index(of: Placeholder) -> usize {
    match of {
        Placeholder::Month => 1,
        Placeholder::Day => 2,
        Placeholder::Hour => 3,
        Placeholder::Year | Placeholder::Database | Placeholder::Collection => 0,
    }
}

fn read_folder(parts: &[Part], text: &str, calendar: &mut [u32; 4]) -> Option<()> {
    let mut rest = text;
    for part in parts {
        match part {
            Part::Text(text) => rest = rest.strip_prefix(text.as_str())?,
            Part::Time(TimePart { of, digits }) => {
                let (number, after) = rest.split_at_checked(*digits)?;
                let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                calendar[index(*of)] = is_number.then(|| number.parse().ok()).flatten()?;
                rest = after;
            }
            Part::Name(_) => return None,
        }
    }
    rest.is_empty().then_some(())
}

/// Each once.
#[derive(Default)]
struct Mistakes(Vec<LayoutMistake>);

impl Mistakes {
    fn add(&mut self, mistake: LayoutMistake) {
        if !self.0.contains(&mistake) {
            self.0.push(mistake);
        }
    }
}

fn parse_folder(folder: &str, mistakes: &mut Mistakes) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = folder;
    while let Some(next) = rest.chars().next() {
        if next == '{' {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            let (name, after) = rest.split_at(end);
            match Placeholder::ALL.into_iter().find(|known| known.as_str() == name) {
                Some(placeholder) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(placeholder.part());
                }
                None => mistakes.add(LayoutMistake::Unknown(name.to_owned())),
            }
            rest = after;
        } else {
            if !is_plain(next) {
                mistakes.add(LayoutMistake::Character(next));
            }
            text.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    check_folder(folder, &mut parts, mistakes);
    parts
}

/// What readers, shells, URLs and the escaping of names leave alone.
fn is_plain(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-_.=,+~".contains(character)
}

fn check_folder(folder: &str, parts: &mut [Part], mistakes: &mut Mistakes) {
    if folder.is_empty() {
        mistakes.add(LayoutMistake::NoName);
    }
    if folder.starts_with(['_', '.']) {
        mistakes.add(LayoutMistake::Hidden(folder.to_owned()));
    }
    let texts = || {
        parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None })
    };
    // A name neither begins nor ends with a dot.
    if folder.ends_with('.') || texts().any(|text| text.contains("..")) {
        mistakes.add(LayoutMistake::Dots(folder.to_owned()));
    }
    if texts().map(str::len).sum::<usize>() > TEXT_LEN_MAX {
        mistakes.add(LayoutMistake::LongText(folder.to_owned()));
    }
    let names: Vec<usize> = (0..parts.len()).filter(|index| is_name(&parts[*index])).collect();
    for pair in names.windows(2) {
        // Letters and digits, and the dash of their escapes, are in every name.
        let apart = match &parts[pair[0] + 1] {
            Part::Text(text) => text.bytes().next().filter(|byte| b"._=,+~".contains(byte)),
            Part::Name(_) | Part::Time(_) => None,
        };
        if apart.is_none() {
            mistakes.add(LayoutMistake::NotApart(folder.to_owned()));
        }
        if let Part::Name(name) = &mut parts[pair[0]] {
            name.apart = apart;
        }
    }
    for index in &names {
        if let Part::Name(name) = &mut parts[*index] {
            name.len_max = SEGMENT_LEN_MAX / names.len();
        }
    }
}

fn check_placeholders(folders: &[Vec<Part>], mistakes: &mut Mistakes) {
    let of = |part: &Part| match part {
        Part::Text(_) => None,
        Part::Name(name) => Some(name.of),
        Part::Time(time) => Some(time.of),
    };
    let found: Vec<(usize, Placeholder)> = folders
        .iter()
        .enumerate()
        .flat_map(|(depth, folder)| folder.iter().filter_map(of).map(move |placeholder| (depth, placeholder)))
        .collect();
    for wanted in Placeholder::ALL {
        match found.iter().filter(|(_, placeholder)| *placeholder == wanted).count() {
            0 => mistakes.add(LayoutMistake::Missing(wanted)),
            1 => {}
            _ => mistakes.add(LayoutMistake::Twice(wanted)),
        }
    }
    let place = found.iter().filter(|(_, placeholder)| placeholder.is_name()).map(|(depth, _)| *depth).max();
    let early = found.iter().find(|(depth, placeholder)| !placeholder.is_name() && Some(*depth) <= place);
    if let Some((_, time)) = early {
        mistakes.add(LayoutMistake::TimeFirst(*time));
    }
}

#[cfg(test)]
mod tests;

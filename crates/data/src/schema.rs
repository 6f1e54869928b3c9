//! The columns of a shard, and rows as columns.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray,
    StructArray, UInt64Array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use strand_store::xxh3;

use crate::{Qa, Row};

/// Column of the features in [`schema`].
pub(crate) const FEATURES: usize = 5;
/// Column of their checksums.
pub(crate) const CHECKSUMS: usize = 6;

/// The schema of a shard. `features` is Binary to write; to read it is BinaryView, which points into the fetched
/// bytes instead of copying them.
pub(crate) fn schema(features: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("video", DataType::Utf8, false),
        Field::new("media", DataType::Utf8, false),
        Field::new("frames", DataType::Int32, false),
        Field::new("tokens", DataType::Int32, false),
        Field::new("features", features, false),
        Field::new("xxh3", DataType::UInt64, false),
        Field::new("seconds", DataType::List(element(DataType::Float32)), false),
        Field::new("qa", DataType::List(element(DataType::Struct(qa_fields()))), false),
    ]))
}

/// Names and types of the columns of a shard, for people.
pub fn columns() -> Vec<(String, String)> {
    let schema = schema(DataType::Binary);
    schema
        .fields()
        .iter()
        .map(|field| (field.name().clone(), type_name(field.data_type())))
        .collect()
}

fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Utf8 => "utf8".to_owned(),
        DataType::List(element) => format!("list<{}>", type_name(element.data_type())),
        DataType::Struct(fields) => {
            let field =
                |field: &FieldRef| format!("{}: {}", field.name(), type_name(field.data_type()));
            let fields: Vec<String> = fields.iter().map(field).collect();
            format!("struct<{}>", fields.join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

fn element(kind: DataType) -> FieldRef {
    Arc::new(Field::new("element", kind, false))
}

fn qa_fields() -> Fields {
    let text = |name| Field::new(name, DataType::Utf8, false);
    let options = Field::new("options", DataType::List(element(DataType::Utf8)), false);
    Fields::from(vec![text("instruction"), text("question"), text("answer"), options, text("kind")])
}

/// Rows as a record batch; sizes were checked when the rows came in.
pub(crate) fn encode(rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let text = |get: fn(&Row) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(get)))
    };
    let count = |get: fn(&Row) -> usize| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| get(row) as i32)))
    };
    let columns: Vec<ArrayRef> = vec![
        text(|row| &row.id),
        text(|row| &row.video),
        text(|row| row.media.as_str()),
        count(|row| row.frames),
        count(|row| row.tokens),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| &row.features))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| xxh3(&row.features)))),
        seconds(rows)?,
        pairs(rows)?,
    ];
    RecordBatch::try_new(schema(DataType::Binary), columns)
}

fn seconds(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let values =
        Float32Array::from_iter_values(rows.iter().flat_map(|row| row.seconds.iter().copied()));
    let lengths = rows.iter().map(|row| row.seconds.len());
    list(element(DataType::Float32), lengths, Arc::new(values))
}

fn pairs(rows: &[Row]) -> Result<ArrayRef, ArrowError> {
    let all: Vec<&Qa> = rows.iter().flat_map(|row| &row.qa).collect();
    let text = |get: fn(&Qa) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(all.iter().map(|pair| get(pair))))
    };
    let options = StringArray::from_iter_values(all.iter().flat_map(|pair| &pair.options));
    let lengths = all.iter().map(|pair| pair.options.len());
    let columns = vec![
        text(|pair| &pair.instruction),
        text(|pair| &pair.question),
        text(|pair| &pair.answer),
        list(element(DataType::Utf8), lengths, Arc::new(options))?,
        text(|pair| &pair.kind),
    ];
    let structs = StructArray::try_new(qa_fields(), columns, None)?;
    let element = element(DataType::Struct(qa_fields()));
    list(element, rows.iter().map(|row| row.qa.len()), Arc::new(structs))
}

fn list(
    element: FieldRef,
    lengths: impl Iterator<Item = usize>,
    values: ArrayRef,
) -> Result<ArrayRef, ArrowError> {
    let lengths: Vec<usize> = lengths.collect();
    Ok(Arc::new(ListArray::try_new(element, OffsetBuffer::from_lengths(lengths), values, None)?))
}

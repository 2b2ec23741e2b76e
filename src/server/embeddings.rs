//! `/v1/embeddings`.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::JsonBody;
use super::error::{ApiError, ErrorBody};
use super::prompt::Input;
use super::state::App;
use crate::Model;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct EmbeddingRequest {
    /// The name of a model [default: the first one that is served]
    model: Option<String>,
    /// The text or texts, or their tokens
    input: Input,
    /// How the vectors are written
    encoding_format: Option<EncodingFormat>,
    /// The number of dimensions; that of the model is the only one
    dimensions: Option<usize>,
}

/// Forms of a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    /// An array of numbers.
    #[default]
    Float,
    /// Little-endian f32 in base64.
    Base64,
}

/// Embeddings of some texts.
#[derive(Serialize, ToSchema)]
pub(super) struct EmbeddingResponse {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Vector {
    Floats(Vec<f32>),
    Base64(String),
}

#[derive(Serialize, ToSchema)]
struct EmbeddingUsage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// More texts than these are for several requests.
const MAX_INPUTS: usize = 2048;

/// Turn texts into vectors
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest, responses(
    (status = 200, body = EmbeddingResponse), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(super) async fn embeddings(State(app): State<App>, body: JsonBody) -> Result<Json<EmbeddingResponse>, ApiError> {
    let request: EmbeddingRequest = body.read()?;
    let served = app.model(request.model.as_deref())?;
    let embedder = served.embedder()?;
    let size = served.model().config().hidden_size;
    if let Some(dimensions) = request.dimensions.filter(|&dimensions| dimensions != size) {
        let message = format!("dimensions is {dimensions}; {} has {size} and was not trained for fewer", served.id);
        return Err(ApiError::bad_field("dimensions", message));
    }
    let input = request.input;
    let (vectors, prompt_tokens) = embedder
        .run(move |model| {
            let texts = tokens_of(model, input)?;
            let tokens = texts.iter().map(Vec::len).sum::<usize>();
            Ok((model.embed_tokens(&texts)?, tokens))
        })
        .await?;
    let format = request.encoding_format.unwrap_or_default();
    let data = vectors.into_iter().enumerate().map(|(index, vector)| Embedding {
        object: "embedding",
        index,
        embedding: match format {
            EncodingFormat::Float => Vector::Floats(vector),
            EncodingFormat::Base64 => {
                Vector::Base64(STANDARD.encode(vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>()))
            }
        },
    });
    Ok(Json(EmbeddingResponse {
        object: "list",
        data: data.collect(),
        model: served.id.clone(),
        usage: EmbeddingUsage { prompt_tokens, total_tokens: prompt_tokens },
    }))
}

/// The tokens of each text.
fn tokens_of(model: &Model, input: Input) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: String| Ok(model.tokenizer()?.encode_whole(&text)?);
    let texts: Vec<Vec<u32>> = match input {
        Input::Text(text) => vec![encode(text)?],
        Input::Texts(texts) if texts.len() <= MAX_INPUTS => {
            texts.into_iter().map(encode).collect::<Result<_, ApiError>>()?
        }
        Input::Tokens(tokens) => vec![tokens],
        Input::TokenLists(lists) => lists,
        Input::Texts(texts) => texts.into_iter().map(|_| Vec::new()).collect(),
    };
    if texts.is_empty() || texts.len() > MAX_INPUTS {
        let message = format!("input has {} texts, expected 1 to {MAX_INPUTS}", texts.len());
        return Err(ApiError::bad_field("input", message));
    }
    if let Some((at, text)) = texts.iter().enumerate().find(|(_, text)| text.len() > model.context()) {
        let message = format!("input[{at}] has {} tokens, more than the context of {}", text.len(), model.context());
        return Err(ApiError::bad_field("input", message).with_code("context_length_exceeded"));
    }
    Ok(texts)
}

//! Pools token embeddings into one embedding.

use crate::task::settings::Pooling;

/// The poolings without duplicates, in the order in which sentence-transformers concatenates them.
pub(super) fn ordered(asked: &[Pooling]) -> Vec<Pooling> {
    let order = [
        Pooling::Cls,
        Pooling::Max,
        Pooling::Mean,
        Pooling::MeanSqrtLen,
        Pooling::WeightedMean,
        Pooling::LastToken,
    ];
    order.into_iter().filter(|pooling| asked.contains(pooling)).collect()
}

/// Pools `tokens`, each with `width` numbers, and appends the embedding to `out`. A row without
/// attended tokens gets the embedding 0.
pub(super) fn pool(pooling: Pooling, tokens: &[f32], width: usize, attention: &[u32], out: &mut Vec<f32>) {
    let start = out.len();
    out.resize(start + width, 0.0);
    let Some(embedding) = out.get_mut(start..).filter(|_| width > 0) else {
        return;
    };
    let counted = || {
        let all = tokens.chunks_exact(width).zip(attention).enumerate();
        all.filter(|(_, (_, mask))| **mask != 0)
            .map(|(at, (token, _))| (at, token))
    };
    match pooling {
        Pooling::Cls => {
            if let Some((_, token)) = counted().next() {
                embedding.copy_from_slice(token);
            }
        }
        Pooling::LastToken => {
            if let Some((_, token)) = counted().next_back() {
                embedding.copy_from_slice(token);
            }
        }
        Pooling::Max => {
            let mut counted = counted();
            if let Some((_, token)) = counted.next() {
                embedding.copy_from_slice(token);
            }
            for (_, token) in counted {
                for (greatest, &number) in embedding.iter_mut().zip(token) {
                    // NaN propagates, as in PyTorch.
                    if number > *greatest || number.is_nan() {
                        *greatest = number;
                    }
                }
            }
        }
        Pooling::Mean | Pooling::MeanSqrtLen | Pooling::WeightedMean => {
            let mut total = 0f32;
            for (at, token) in counted() {
                let weight = match pooling {
                    Pooling::WeightedMean => (at + 1) as f32,
                    _ => 1.0,
                };
                total += weight;
                for (sum, &number) in embedding.iter_mut().zip(token) {
                    *sum += number * weight;
                }
            }
            let total = total.max(1e-9);
            let by = match pooling {
                Pooling::MeanSqrtLen => total.sqrt(),
                _ => total,
            };
            embedding.iter_mut().for_each(|number| *number /= by);
        }
    }
}

//! The text of `GET /metrics`: families of the table, filled with values.

use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary};
use prometheus::{Encoder, TextEncoder, proto};

use super::table::{MetricInfo, MetricKind};
use crate::telemetry::latency::LatencySnapshot;
use crate::telemetry::recorder::Histogram;

/// A page in the making. Families without series are left out.
#[derive(Debug, Default)]
pub struct MetricsPage {
    families: Vec<MetricFamily>,
}

impl MetricsPage {
    /// Adds a series with these values of the labels of `metric`.
    fn add(&mut self, metric: &MetricInfo, labels: &[&str], fill: impl FnOnce(&mut Metric)) {
        let pairs = metric.labels.iter().zip(labels).filter(|(_, value)| !value.is_empty());
        let pairs = pairs.map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut series = Metric::from_label(pairs.collect());
        fill(&mut series);
        match self.families.last_mut().filter(|family| family.name() == metric.name) {
            Some(family) => family.mut_metric().push(series),
            None => {
                let mut family = MetricFamily::default();
                family.set_name(metric.name.to_owned());
                family.set_help(metric.help.to_owned());
                family.set_field_type(match metric.kind {
                    MetricKind::Counter => MetricType::COUNTER,
                    MetricKind::Gauge => MetricType::GAUGE,
                    MetricKind::Histogram => MetricType::HISTOGRAM,
                    MetricKind::Summary => MetricType::SUMMARY,
                });
                family.set_metric(vec![series]);
                self.families.push(family);
            }
        }
    }

    /// Adds a counter that has counted something.
    pub fn counter(&mut self, metric: &MetricInfo, labels: &[&str], value: u64) {
        if value > 0 {
            self.add(metric, labels, |series| {
                let mut counter = Counter::default();
                counter.set_value(value as f64);
                series.set_counter(counter);
            });
        }
    }

    pub fn gauge(&mut self, metric: &MetricInfo, labels: &[&str], value: f64) {
        self.add(metric, labels, |series| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            series.set_gauge(gauge);
        });
    }

    /// Adds a histogram that has counted something. `bounds` and the sum are divided by `unit`.
    pub fn histogram<const N: usize>(
        &mut self,
        metric: &MetricInfo,
        (bounds, unit): (&[u64; N], f64),
        (values, sum): (&Histogram<N>, f64),
    ) {
        if values.count() == 0 {
            return;
        }
        self.add(metric, &[], |series| {
            let mut below = 0;
            let buckets = bounds.iter().zip(values.buckets).map(|(&bound, count)| {
                below += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound as f64 / unit);
                bucket.set_cumulative_count(below);
                bucket
            });
            let mut histogram = proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_sum(sum);
            histogram.set_sample_count(values.count());
            series.set_histogram(histogram);
        });
    }

    /// Adds a summary that has counted something: its sum and count of all time, and its quantiles
    /// of a while. A while without durations has no quantiles.
    pub fn summary(
        &mut self,
        metric: &MetricInfo,
        labels: &[&str],
        (count, seconds): (u64, f64),
        quantiles: Option<(&LatencySnapshot, &[f64])>,
    ) {
        if count == 0 {
            return;
        }
        self.add(metric, labels, |series| {
            let of_a_while = quantiles.into_iter().flat_map(|(recent, quantiles)| {
                quantiles
                    .iter()
                    .filter_map(|&quantile| Some((quantile, recent.quantile(quantile)?)))
            });
            let quantiles = of_a_while.map(|(quantile, value)| {
                let mut series = Quantile::default();
                series.set_quantile(quantile);
                series.set_value(value.as_secs_f64());
                series
            });
            let mut summary = Summary::default();
            summary.set_quantile(quantiles.collect());
            summary.set_sample_count(count);
            summary.set_sample_sum(seconds);
            series.set_summary(summary);
        });
    }

    /// Writes the page.
    pub fn to_text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.families, &mut text)?;
        Ok(text)
    }
}

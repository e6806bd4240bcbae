/* LayerNorm and Mish of the rows of a matrix, forward and backward, each in one pass over memory.
 *
 * Row r of h [rows, dim] belongs to member (r / run) % members; bias, gain and shift are [members, dim]. With
 * u = (h + bias - mean) * scale * gain + shift, where moments [2, rows] holds mean and scale, the result is u tanh(softplus(u)), where
 * tanh(softplus(u)) = n / (n + 2) with n = e^u (e^u + 2), and its derivative is 4 e^u (e^u + 1) / (n + 2)^2.
 * The backward pass adds up the gradients of bias, gain and shift in sums [3, members, dim]. It computes u anew: one exponential costs less than reading what was kept of it.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Below -87 Mish is 0 and above 20 it is u, to rounding; a NaN stays one. */
static inline float from_below(float u) { return u < -87.0f ? -87.0f : u; }
static inline float from_above(float u) { return u > 20.0f ? 20.0f : u; }

/* e^x for x in [-87, 20]; relative error below 1e-6, and below 2e-7 from -4 on.
 *
 * x is divided into a multiple of log 2 and a rest of at most half of it, whose power series is short.
 */
static inline float exponential(float x) {
    const float n = rintf(x * 1.44269504f);
    const float r = x - n * 0.693147181f;
    float p = 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

void normed_mish_forward(const float *restrict h, const float *restrict bias, const float *restrict gain,
                         const float *restrict shift, float *restrict y, float *restrict moments,
                         int64_t rows, int64_t dim, int64_t members, int64_t run,
                         float eps) {
    float *restrict mean = moments, *restrict scale = moments + rows;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t m = (r / run) % members * dim;
        const float *restrict b = bias + m, *restrict g = gain + m, *restrict s = shift + m;
        const float *restrict x = h + r * dim;
        float *restrict out = y + r * dim;
        float total = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : total)
        for (int64_t i = 0; i < dim; i++) {
            float v = x[i] + b[i];
            out[i] = v;
            total += v;
        }
        const float centre = total / (float)dim;
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < dim; i++) {
            float d = out[i] - centre;
            square += d * d;
        }
        const float inverse = 1.0f / sqrtf(square / (float)dim + eps);
        mean[r] = centre;
        scale[r] = inverse;
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) {
            float u = from_below((out[i] - centre) * inverse * g[i] + s[i]);
            float e = exponential(from_above(u));
            float n = e * (e + 2.0f);
            out[i] = u * (n / (n + 2.0f));
        }
    }
}

void normed_mish_backward(const float *restrict grad, const float *restrict h, const float *restrict bias,
                          const float *restrict gain, const float *restrict shift, const float *restrict moments,
                          float *restrict grad_h, float *restrict sums, int64_t rows, int64_t dim,
                          int64_t members, int64_t run) {
    const float *restrict mean = moments, *restrict scale = moments + rows;
    float *restrict grad_bias = sums, *restrict grad_gain = sums + members * dim;
    float *restrict grad_shift = sums + 2 * members * dim;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t m = (r / run) % members * dim;
        const float *restrict b = bias + m, *restrict g = gain + m, *restrict s = shift + m;
        float *restrict gb = grad_bias + m, *restrict gg = grad_gain + m, *restrict gs = grad_shift + m;
        const float *restrict x = h + r * dim, *restrict gy = grad + r * dim;
        float *restrict gx = grad_h + r * dim;
        const float centre = mean[r], inverse = scale[r];
        float total = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : total, along)
        for (int64_t i = 0; i < dim; i++) {
            float v = (x[i] + b[i] - centre) * inverse;
            float u = from_above(from_below(v * g[i] + s[i]));
            float e = exponential(u);
            float n = e * (e + 2.0f);
            float q = 1.0f / (n + 2.0f);
            float gu = gy[i] * (n * q + u * (4.0f * (e + 1.0f) * e * q * q));
            gs[i] += gu;
            gg[i] += gu * v;
            gu *= g[i];
            gx[i] = gu;
            total += gu;
            along += gu * v;
        }
        total /= (float)dim;
        along /= (float)dim;
#pragma omp simd
        for (int64_t i = 0; i < dim; i++) {
            float v = (x[i] + b[i] - centre) * inverse;
            float d = inverse * (gx[i] - total - v * along);
            gx[i] = d;
            gb[i] += d;
        }
    }
}

"""From presets and typed overrides to checked options, and to what they describe."""

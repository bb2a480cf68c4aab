"""Knowledge distillation for compact Whisper models and audio taggers."""

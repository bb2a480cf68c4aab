"""Run the teacher once over the audio and write down what students learn from."""

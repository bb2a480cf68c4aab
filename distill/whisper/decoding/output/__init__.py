"""The output layer: the largest logits of many, exactly, without reading all of it in float32."""

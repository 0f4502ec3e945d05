"""A simulated channel that speaks the gateway protocol of Alipay."""

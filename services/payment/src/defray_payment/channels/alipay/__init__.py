"""Alipay's classic open-platform gateway, RSA2, direct merchant."""

"""REST in, gRPC out; it owns no rule of the business."""

from django_kvsessions.stores.dynamodb.store import DynamoDBStore

__all__ = ["DynamoDBStore"]

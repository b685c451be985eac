"""Lists that wait for an identity are judged again once that is confirmed, too."""

from django.db import migrations

TRIGGER = """
    DROP TRIGGER concentrators_reverification ON keyvault_meteridentity;
    CREATE TRIGGER concentrators_reverification AFTER INSERT OR UPDATE OF mac ON keyvault_meteridentity
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_coupon_came();
"""
BEFORE = """
    DROP TRIGGER concentrators_reverification ON keyvault_meteridentity;
    CREATE TRIGGER concentrators_reverification AFTER INSERT ON keyvault_meteridentity
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_coupon_came();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0041_arrived_without_sum"), ("keyvault", "0028_identity_mac")]
    operations = [migrations.RunSQL(TRIGGER, BEFORE)]

"""Readings that wait for a coupon are judged again once a list comes; and the verdicts of signed readings."""

from django.db import migrations

TRIGGERS = """
    CREATE FUNCTION concentrators_coupon_came() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO concentrators_reverification (cause) VALUES ('coupon');
        RETURN NULL;
    END $$;
    CREATE TRIGGER concentrators_reverification AFTER INSERT ON keyvault_couponlist
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_coupon_came();
    CREATE TRIGGER concentrators_reverification AFTER INSERT ON keyvault_meteridentity
        FOR EACH STATEMENT EXECUTE FUNCTION concentrators_coupon_came();
"""
GONE = """
    DROP TRIGGER concentrators_reverification ON keyvault_meteridentity;
    DROP TRIGGER concentrators_reverification ON keyvault_couponlist;
    DROP FUNCTION concentrators_coupon_came();
"""


class Migration(migrations.Migration):
    dependencies = [("concentrators", "0034_titles_with_keys"), ("keyvault", "0026_coupons")]
    operations = [migrations.RunSQL(TRIGGERS, GONE)]
